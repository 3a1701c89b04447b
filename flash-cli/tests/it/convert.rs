//! `convert`.

use std::fs;

use crate::support::tiny::Tiny;
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

#[test]
fn a_hugging_face_directory_is_quantised_and_runs() {
    let tiny = Tiny::new(2);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let out = out.to_str().unwrap();
    let convert =
        |more: &[&str]| flash_cli(["convert", "--hf", tiny.dir(), "--out", out]).args(more).output().unwrap();
    let converted = convert(&["--bits", "8", "--group-size", "32"]);
    assert!(converted.status.success(), "{}", stderr(&converted));
    assert_eq!(stdout(&converted), "");
    // Seven matrices a layer, and the embedding.
    assert!(stderr(&converted).contains("15 of 20 parameters quantized"), "{}", stderr(&converted));

    let inspect = json(&output(["inspect", "--model", out, "--json"]));
    let before = json(&output(["inspect", "--model", tiny.dir(), "--json"]));
    assert!(inspect["model_bytes"].as_u64() < before["model_bytes"].as_u64());
    let run = |model: &str| output(["run", "--model", model, "--prompt", "5 6", "--max-tokens", "1"]);
    assert_eq!(stdout(&run(out)), stdout(&run(tiny.dir())), "8 bits leave the likeliest token what it is");

    assert_refused(&convert(&[]), 1, &["exists already"]);
    assert_refused(&convert(&["--bits", "7"]), 2, &["--bits 7 --group-size 64", "7 bits"]);
    assert_refused(&convert(&["--keep"]), 2, &["--hf <MODEL>", "--keep"]);
    let again = output(["convert", "--hf", out, "--out", "elsewhere"]);
    assert_refused(&again, 1, &["config.json: quantization says that the weights are quantised already"]);
    assert_refused(&output(["convert", "--out", out]), 2, &["--gguf <FILE>", "--hf <MODEL>"]);
}
