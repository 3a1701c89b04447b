//! Shared code of the tests.

pub(crate) mod hub;
pub(crate) mod real;
pub(crate) mod tiny;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

/// Returns the program, without color settings from the environment of the tests, and with a cache directory of the tests:
/// what it measures while many tests run is of no use to the user.
pub(crate) fn flash_cli<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flash-cli"));
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.env("FLASH_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.args(args);
    command
}

/// Runs the program to its end.
pub(crate) fn output<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    flash_cli(args).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Parses the JSON object that a successful run printed.
#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "one object in one line, not {text:?}");
    serde_json::from_str(text).unwrap()
}

/// Asserts that a run failed with exit status `code` and a one-line error that contains all of `parts`.
#[track_caller]
pub(crate) fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.ends_with('\n'), "{stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "one line, not {stderr:?}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in {stderr:?}");
    }
    assert_eq!(stdout(output), "", "a failed run prints nothing to standard output");
}

/// Returns the floor, as named by the error for a budget below it. It varies by some MiB between runs, as the memory of
/// the process does.
#[track_caller]
pub(crate) fn floor_mib<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> u64 {
    refused_floor_mib(flash_cli(args), 1)
}

/// Runs a command with a budget that is below the floor, and returns the floor that its error names.
#[track_caller]
pub(crate) fn refused_floor_mib(mut command: Command, budget_mib: u64) -> u64 {
    let output = command.args(["--ram", &format!("{budget_mib}MiB")]).output().unwrap();
    assert_refused(&output, 1, &[&format!("a budget of {budget_mib} MiB is below the floor of ")]);
    let (_, rest) = stderr(&output).split_once("floor of ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}
