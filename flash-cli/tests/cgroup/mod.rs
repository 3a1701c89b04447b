//! Memory limits for child processes, with control groups (version 1 or 2).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group with a limit, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    dir: PathBuf,
    is_v1: bool,
}

impl MemoryLimit {
    /// Creates a group with a limit of `bytes`, page cache included.
    ///
    /// # Errors
    /// The reason why the system does not allow it.
    pub(crate) fn new(bytes: u64) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let is_v1 = Path::new(ROOT).join("memory").is_dir();
        let parent = if is_v1 { Path::new(ROOT).join("memory") } else { PathBuf::from(ROOT) };
        let name = format!("flash-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = parent.join(name);
        let reason =
            |error: io::Error| format!("no control group with a memory limit at {}: {error}", dir.display());
        if !is_v1 {
            // May fail if the controller is already enabled or not ours to enable; setting the limit below decides.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&dir).map_err(reason)?;
        let limit = Self { dir: dir.clone(), is_v1 };
        let file = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(dir.join(file), bytes.to_string()).map_err(reason)?;
        Ok(limit)
    }

    /// Wraps a command so that its process joins the group before the program starts.
    pub(crate) fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("sh");
        wrapped.args(["-c", r#"echo $$ >"$0" && exec "$@""#]).arg(self.dir.join("cgroup.procs"));
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped
    }

    /// Returns the number of processes in the group that were killed for lack of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.dir.join(file)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Fails if the child was not waited for; an empty group left behind is harmless.
        let _ = fs::remove_dir(&self.dir);
    }
}
