//! Runs the program under a kernel memory limit equal to its budget: it is not killed, and its resident set stays
//! below. Needs root and control groups; the tests are skipped elsewhere.
#![cfg(target_os = "linux")]

mod cgroup;

use std::path::PathBuf;
use std::process::Command;

use cgroup::MemoryLimit;
use serde_json::Value;

const FLASH_CLI: &str = env!("CARGO_BIN_EXE_flash-cli");

/// Returns the directory of the test models; none if the tests are to be skipped.
fn models() -> Option<PathBuf> {
    let folder = std::env::var_os("FLASH_TEST_MODELS").map(PathBuf::from);
    if folder.is_none() {
        let required = std::env::var_os("FLASH_REQUIRE_MODELS").is_some();
        assert!(!required, "FLASH_TEST_MODELS is not set");
        skip("FLASH_TEST_MODELS is not set; `cargo xtask test` sets it");
    }
    folder
}

#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

fn json_of(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn run(model: &std::path::Path, ram_bytes: u64, prompt: &str, max_tokens: u32) -> Command {
    let mut command = Command::new(FLASH_CLI);
    command.args(["run", "--json", "--prompt", prompt, "--ram", &format!("{ram_bytes}B")]);
    command.args(["--max-tokens", &max_tokens.to_string(), "--model"]).arg(model);
    command
}

/// Runs a model with budgets from its floor to all of its weights, each also set as a kernel limit.
fn runs_in_every_budget(name: &str, prompt: &str, max_tokens: u32) {
    let Some(folder) = models() else { return };
    let model = folder.join(name);
    let inspect = json_of(Command::new(FLASH_CLI).args(["inspect", "--json", "--model"]).arg(&model));
    let (model_bytes, floor_bytes) =
        (inspect["model_bytes"].as_u64().unwrap(), inspect["floor_bytes"].as_u64().unwrap());
    let mut texts = Vec::new();
    for extra_bytes in [0, model_bytes / 3, model_bytes * 2] {
        let budget_bytes = floor_bytes + extra_bytes;
        let limit = match MemoryLimit::new(budget_bytes) {
            Ok(limit) => limit,
            Err(reason) => return skip(&reason),
        };
        let report = json_of(&mut limit.wrap(&run(&model, budget_bytes, prompt, max_tokens)));
        assert_eq!(limit.oom_kills(), 0, "{name} in {budget_bytes} B");
        let peak_bytes = report["peak_rss_bytes"].as_u64().unwrap();
        assert!(peak_bytes <= budget_bytes, "{name}: peak of {peak_bytes} B in {budget_bytes} B");
        assert_eq!(report["budget_bytes"], budget_bytes);
        texts.push(report["token_ids"].clone());
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {texts:?}");
}

/// Returns a prompt of about 400 tokens, so that prefill has several chunks.
fn long_prompt() -> String {
    "The budget is a promise about the whole process, and not a hint. ".repeat(28)
}

#[test]
fn the_kept_model_keeps_to_every_budget() {
    runs_in_every_budget("kept", "The capital of France is", 8);
}

#[test]
fn half_precision_weights_that_are_widened_keep_to_every_budget() {
    runs_in_every_budget("f16", "The capital of France is", 4);
}

#[test]
fn a_long_prompt_keeps_to_its_budget() {
    let Some(folder) = models() else { return };
    let model = folder.join("kept");
    // The floor of a long prompt is higher than that of a short one; the error names it.
    let refusal = run(&model, 1 << 20, &long_prompt(), 4).output().unwrap();
    assert_eq!(refusal.status.code(), Some(1));
    let sentence = String::from_utf8_lossy(&refusal.stderr);
    let floor_mib: u64 = sentence
        .split("below the floor of ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap();
    let budget_bytes = floor_mib << 20;
    let limit = match MemoryLimit::new(budget_bytes) {
        Ok(limit) => limit,
        Err(reason) => return skip(&reason),
    };
    let report = json_of(&mut limit.wrap(&run(&model, budget_bytes, &long_prompt(), 4)));
    assert!(report["prompt_tokens"].as_u64().unwrap() > 300, "{report}");
    assert_eq!(limit.oom_kills(), 0);
    let peak_bytes = report["peak_rss_bytes"].as_u64().unwrap();
    assert!(peak_bytes <= budget_bytes, "peak of {peak_bytes} B in {budget_bytes} B");
}
