//! Confines both programs to the same processors and memory.

use std::num::NonZeroUsize;
use std::process::Command;
use std::thread;

use anyhow::{Result, bail};
use bytesize::ByteSize;

// Shared with the tests of `flash-cli`, which also run programs under a memory limit.
#[cfg(target_os = "linux")]
#[path = "../../../flash-cli/tests/cgroup/mod.rs"]
mod cgroup;

/// Processors and memory that a program may use.
#[derive(Debug, Clone)]
pub struct Confinement {
    pub threads: NonZeroUsize,
    /// Whether there are more processors than threads. Programs are then pinned to the first ones.
    is_part: bool,
    pub memory: Option<ByteSize>,
}

impl Confinement {
    /// Confines programs to `threads` processors, all by default, and to `memory`.
    pub fn new(threads: Option<NonZeroUsize>, memory: Option<ByteSize>) -> Result<Self> {
        let all = thread::available_parallelism()?;
        let threads = threads.unwrap_or(all);
        if threads > all {
            bail!("--threads {threads}: there are {all} processors");
        }
        if !cfg!(target_os = "linux") && (threads < all || memory.is_some()) {
            bail!("--threads and --mem are only supported on Linux");
        }
        Ok(Self { threads, is_part: threads < all, memory })
    }

    /// Runs a command in the confinement, and returns its standard output.
    pub fn output(&self, command: &Command) -> Result<String> {
        let mut command = if self.is_part { self.pinned(command) } else { copy(command) };
        #[cfg(target_os = "linux")]
        if let Some(ByteSize(bytes)) = self.memory {
            let limit = cgroup::MemoryLimit::new(bytes).map_err(anyhow::Error::msg)?;
            let mut wrapped = limit.wrap(&command);
            set_environment(&mut wrapped, &command);
            let output = crate::run::output(&mut wrapped);
            if limit.oom_kills() > 0 {
                bail!("{command:?} was killed: it needs more than {} of memory", ByteSize(bytes));
            }
            return output;
        }
        crate::run::output(&mut command)
    }

    fn pinned(&self, command: &Command) -> Command {
        let mut pinned = Command::new("taskset");
        pinned.arg("-c").arg(format!("0-{}", self.threads.get() - 1));
        pinned.arg(command.get_program()).args(command.get_args());
        set_environment(&mut pinned, command);
        pinned
    }
}

fn copy(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    set_environment(&mut copy, command);
    copy
}

/// Sets the variables that `command` sets.
fn set_environment(to: &mut Command, command: &Command) {
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            to.env(name, value);
        }
    }
}
