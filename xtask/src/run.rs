//! Runs child processes, with clear errors if one fails and signs of life if one takes long.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longest silence of a task that takes long.
const SILENCE_MAX: Duration = Duration::from_secs(7);

/// Returns the root directory of the workspace.
pub fn workspace() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().expect("xtask lies in the workspace").to_owned()
}

/// Returns cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Returns a command of the `cargo` that runs this program, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Runs `command`, and returns an error with its command line and status if it fails.
pub fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a build with its standard error inherited, and returns its standard output.
pub fn output_of_build(command: &mut Command) -> Result<String> {
    command.stderr(Stdio::inherit());
    output(command)
}

/// Runs `command` and returns its trimmed standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", name(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `work`, and says from time to time that it still does. cargo itself says so on a terminal only, and a C++
/// compiler never.
pub fn with_signs_of_life<T>(doing: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while is_done.recv_timeout(SILENCE_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("    … {doing}, {} s", begin.elapsed().as_secs());
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    command.get_args().fold(name(command), |line, arg| line + " " + &arg.to_string_lossy())
}
