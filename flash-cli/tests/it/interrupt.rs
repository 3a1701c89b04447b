//! Ctrl-C, and readers that go away.
#![cfg(unix)]

use std::io::{BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::support::tiny::Tiny;

/// A run of many tokens, with the first of its text read.
fn long_run(tiny: &Tiny) -> (Child, BufReader<std::process::ChildStdout>, u8) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_flash-cli"))
        .args(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "2000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    (child, stdout, first[0])
}

#[test]
fn ctrl_c_ends_the_text_with_a_line_end_and_130() {
    let tiny = Tiny::new(64);
    let (child, mut stdout, _) = long_run(&tiny);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(rest.matches('\n').count(), 1, "{rest:?}");
    assert!(rest.ends_with('\n') && rest.split(' ').count() < 2000, "{rest:?}");
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    let tiny = Tiny::new(64);
    let (child, stdout, _) = long_run(&tiny);
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
