//! `chat` without a terminal, where every line is a turn.

use std::fs;

use serde_json::{Value, json};

use crate::support::tiny::Tiny;
use crate::support::{flash_cli, output, stderr, stdout};

/// Runs `chat` with these input lines, and returns its answers and its standard error.
#[track_caller]
fn chat(tiny: &Tiny, args: &[&str], lines: &str) -> (Vec<String>, String) {
    let mut command = flash_cli(["chat", "--model", tiny.dir(), "--max-tokens", "5"]);
    let output = command.args(args).write_stdin(lines).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    (stdout(&output).lines().map(str::to_owned).collect(), stderr(&output).to_owned())
}

#[track_caller]
fn run(tiny: &Tiny, prompt: &str) -> String {
    let output = output(["run", "--model", tiny.dir(), "--max-tokens", "5", "--prompt", prompt]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).trim_end().to_owned()
}

#[test]
fn second_answer_follows_from_all_that_was_said() {
    let tiny = Tiny::new(2);
    let (answers, _) = chat(&tiny, &[], "5 6\n\n7 8\n");
    assert_eq!(answers.len(), 2, "empty lines are no turns: {answers:?}");
    let first = run(&tiny, "user 5 6 assistant");
    assert_eq!(answers[0], first);
    assert_eq!(answers[1], run(&tiny, &format!("user 5 6 assistant {first} user 7 8 assistant")));
}

#[test]
fn system_prompt_comes_first_and_stays_after_reset() {
    let tiny = Tiny::new(2);
    let (answers, said) = chat(&tiny, &["--system", "9 9"], "5\n/reset\n5\n");
    let expected = run(&tiny, "system 9 9 user 5 assistant");
    assert_eq!(answers, [expected.clone(), expected]);
    assert!(said.contains("Started a new conversation."));
}

#[test]
fn only_what_is_new_passes_through_the_model() {
    let tiny = Tiny::new(2);
    let (_, said) = chat(&tiny, &[], "5 6\n/stats\n7\n/stats\n");
    let stats: Vec<_> = said.lines().filter(|line| line.starts_with("context ")).collect();
    // `user 5 6 assistant` and four of the five tokens; then the fifth, `user 7 assistant`, and four again.
    assert!(stats[0].starts_with("context 8 of 2048 tokens; last answer: 5 tokens"), "{said}");
    assert!(stats[1].starts_with("context 16 of 2048 tokens"), "{said}");
}

#[test]
fn full_context_is_reported_and_reset_makes_room() {
    let tiny = Tiny::new(1);
    let long = "5 ".repeat(248);
    let (answers, said) = chat(&tiny, &["--ctx", "256"], &format!("{long}\n5\n/reset\n6\n"));
    let expected = [run(&tiny, &format!("user {long} assistant")), run(&tiny, "user 6 assistant")];
    assert_eq!(answers, expected, "{said}");
    assert!(said.contains("the context holds 256: start over with /reset"), "{said}");
}

#[test]
fn export_writes_the_messages() {
    let tiny = Tiny::new(1);
    let file = tiny.path("saved.json");
    let (answers, said) = chat(&tiny, &["--system", "9"], &format!("5\n/export {}\n", file.display()));
    let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let expected = json!([
        { "role": "system", "content": "9" },
        { "role": "user", "content": "5" },
        { "role": "assistant", "content": answers[0] },
    ]);
    assert_eq!(saved, expected);
    assert!(said.contains("saved.json: 3 messages"), "{said}");
}

#[test]
fn commands_that_fail_end_nothing() {
    let tiny = Tiny::new(1);
    let (answers, said) = chat(&tiny, &[], "/nonsense\n/export /nowhere/at/all\n/help\n5\n");
    assert_eq!(answers.len(), 1);
    for part in ["/nonsense is not a command", "/nowhere/at/all: No such file", "/reset        start"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn a_line_that_is_not_utf8_is_skipped_with_a_note() {
    let tiny = Tiny::new(2);
    let mut command = flash_cli(["chat", "--model", tiny.dir(), "--max-tokens", "5"]);
    let output = command.write_stdin(b"5 6\n7 \xff\n7 8\n".as_slice()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let (expected, _) = chat(&tiny, &[], "5 6\n7 8\n");
    assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), expected);
    assert!(stderr(&output).contains("Skipped a line that is not UTF-8 text"), "{}", stderr(&output));
}

#[test]
fn a_context_longer_than_the_trained_one_runs_with_a_warning() {
    let tiny = Tiny::new(1);
    let ran = output(["chat", "--model", tiny.dir(), "--ctx", "2049"]);
    assert!(ran.status.success());
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(stderr.contains("2049") && stderr.contains("2048"), "{stderr}");
}
