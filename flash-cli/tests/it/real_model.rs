//! Tests with the demo model, where it is available.

use std::fs;

use crate::support::{flash_cli, floor_mib, json, output, real, refused_floor_mib, stderr, stdout};

const PROMPT: &str = "The capital of France is";

/// A budget smaller than the model.
const BUDGET: &str = "80MiB";

#[test]
fn paris_comes_from_a_budget_smaller_than_the_model() {
    let Some(model) = real::model("kept") else { return };
    let args = ["run", "--model", model.to_str().unwrap(), "--prompt", PROMPT, "--max-tokens", "3"];
    let report = json(&flash_cli(args).args(["--ram", BUDGET, "--json"]).output().unwrap());
    assert!(report["text"].as_str().unwrap().starts_with(" Paris"), "{report}");
    let bytes = |field: &str| report[field].as_u64().unwrap();
    assert!(bytes("model_bytes") > bytes("budget_bytes") && bytes("streamed_bytes") > 0, "{report}");
    assert!(bytes("peak_rss_bytes") <= bytes("budget_bytes"), "{report}");
    assert_eq!(stdout(&output(args)), format!("{}\n", report["text"].as_str().unwrap()));
}

#[test]
fn budget_below_the_floor_is_refused() {
    let Some(model) = real::model("kept") else { return };
    let args = ["run", "--model", model.to_str().unwrap(), "--prompt", PROMPT, "--max-tokens", "3"];
    assert!(refused_floor_mib(flash_cli(args), 20).abs_diff(floor_mib(args)) <= 4);
}

#[test]
fn chat_remembers_what_was_said() {
    let Some(model) = real::model("kept") else { return };
    let mut command =
        flash_cli(["chat", "--model", model.to_str().unwrap(), "--max-tokens", "12", "--ctx", "256"]);
    let lines = "What is the capital of France?\nWhat language do they speak there?\n";
    let output = command.write_stdin(lines).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let answers: Vec<_> = stdout(&output).lines().collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers[0].contains("Paris") && answers[1].contains("French"), "{answers:?}");
}

#[test]
fn perplexity_is_the_same_for_every_budget() {
    let Some(model) = real::model("kept") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    fs::write(&file, "Paris is the capital of France, and Rome is the capital of Italy.").unwrap();
    let (model, file) = (model.to_str().unwrap(), file.to_str().unwrap());
    let args = ["perplexity", "--model", model, "--file", file, "--json"];
    let whole = json(&output(args));
    let streamed = json(&flash_cli(args).args(["--ram", BUDGET]).output().unwrap());
    let loss = whole["loss"].as_f64().unwrap();
    assert_eq!(Some(loss.to_bits()), streamed["loss"].as_f64().map(f64::to_bits));
    assert!((0.1..4.0).contains(&loss), "{whole}");
    assert!(streamed["streamed_bytes"].as_u64() > Some(0), "{streamed}");
}

#[test]
fn tiles_lower_the_floor_and_change_no_token() {
    let Some(model) = real::model("f32") else { return };
    let model = model.to_str().unwrap();
    let floor = |tiling: &[&str]| {
        let report = json(&output([&["inspect", "--json", "--model", model], tiling].concat()));
        report["floor_bytes"].as_u64().unwrap()
    };
    let tiling = ["--tile-size", "128"];
    let (whole, tiled) = (floor(&[]), floor(&tiling));
    assert!(tiled + (20 << 20) < whole, "{tiled} B, and {whole} B with whole layers");
    let run = |flags: &[&str]| {
        let args = ["run", "--model", model, "--prompt", PROMPT, "--max-tokens", "8", "--json"];
        json(&output([&args[..], flags].concat()))
    };
    // A few MiB above the floor: it varies a little between runs.
    let budget = format!("{}MiB", (tiled >> 20) + 6);
    let streamed = run(&[&tiling[..], &["--ram", &budget]].concat());
    assert!(streamed["peak_rss_bytes"].as_u64() <= streamed["budget_bytes"].as_u64(), "{streamed}");
    assert!(streamed["streamed_bytes"].as_u64() > streamed["model_bytes"].as_u64(), "{streamed}");
    assert_eq!(streamed["token_ids"], run(&[])["token_ids"]);
}

#[test]
fn every_variant_says_paris() {
    for name in ["f16", "8bit", "f16-sharded"] {
        let Some(model) = real::model(name) else { continue };
        let run =
            output(["run", "--model", model.to_str().unwrap(), "--prompt", PROMPT, "--max-tokens", "1"]);
        assert_eq!(stdout(&run), " Paris\n", "{name}: {}", stderr(&run));
    }
}
