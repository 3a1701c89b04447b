//! `convert`.

use std::fs;

use crate::support::{assert_refused, flash_cli, json, output, real, stderr, stdout};

#[test]
fn files_that_are_no_gguf_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("model.gguf"), dir.path().join("out"));
    let convert = || flash_cli(["convert", "--gguf"]).arg(&file).arg("--out").arg(&out).output().unwrap();
    assert_refused(&convert(), 1, &["model.gguf: ", "No such file or directory"]);
    fs::write(&file, b"GIF89a, and more of it").unwrap();
    assert_refused(&convert(), 1, &["model.gguf: not a GGUF file"]);
    assert!(!out.exists(), "nothing is left");
}

#[test]
fn converted_model_runs_and_is_not_overwritten() {
    let Some(gguf) = real::gguf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let convert = || flash_cli(["convert", "--gguf"]).arg(&gguf).arg("--out").arg(&out).output().unwrap();
    let converted = convert();
    assert!(converted.status.success(), "{}", stderr(&converted));
    assert_eq!(stdout(&converted), "");
    assert!(stderr(&converted).contains("272 tensors"), "{}", stderr(&converted));

    let out = out.to_str().unwrap();
    let report = json(&output(["inspect", "--model", out, "--json"]));
    assert!(report["model_bytes"].as_u64() > Some(90_000_000));
    let run = output(["run", "--model", out, "--prompt", "The capital of France is", "--max-tokens", "2"]);
    assert_eq!(stdout(&run), " Paris.\n", "{}", stderr(&run));

    assert_refused(&convert(), 1, &["exists already"]);
}
