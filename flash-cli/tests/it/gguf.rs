//! `--model FILE.gguf`: converted once, to a directory in the cache.

use std::path::Path;

use serde_json::Value;

use crate::support::{assert_refused, flash_cli, json, real, stderr, stdout};

const PROMPT: &str = "The capital of France is";

#[test]
fn files_of_every_family_give_the_tokens_of_mlx_lm() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let golden: Value = serde_json::from_str(include_str!("../goldens/gguf.json")).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let file = goldens.join(case["file"].as_str().unwrap());
        let n_tokens = case["token_ids"].as_array().unwrap().len().to_string();
        let mut run = flash_cli(["run", "--json", "--ignore-eos", "--max-tokens", &n_tokens, "--prompt"]);
        run.arg(case["prompt"].as_str().unwrap()).arg("--model").arg(&file).env("FLASH_CACHE", cache.path());
        let output = run.output().unwrap();
        assert!(output.status.success() && stderr(&output).contains("Converting "), "{}", stderr(&output));
        assert_eq!(json(&output)["token_ids"], case["token_ids"], "{}", file.display());
    }
}

#[test]
fn a_gguf_file_is_converted_once_and_runs_as_the_directory_of_its_weights() {
    let (Some(model), Some(gguf)) = (real::model("kept"), real::gguf()) else { return };
    let cache = tempfile::tempdir().unwrap();
    let run = |model: &str| {
        let mut run = flash_cli(["run", "--max-tokens", "8", "--prompt", PROMPT, "--model", model]);
        let output = run.env("FLASH_CACHE", cache.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        (stdout(&output).to_owned(), stderr(&output).contains("Converting "))
    };
    let (expected, _) = run(model.to_str().unwrap());
    assert_eq!(run(gguf.to_str().unwrap()), (expected.clone(), true));
    assert_eq!(run(gguf.to_str().unwrap()), (expected, false), "the second run finds it in the cache");
}

#[test]
fn a_missing_file_is_not_looked_for_on_the_hub() {
    let missing = flash_cli(["run", "--prompt", "x", "--model", "folder/model.gguf"]).output().unwrap();
    assert_refused(&missing, 1, &["folder/model.gguf: No such file or directory"]);
}
