//! `pack`.

use std::path::Path;

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, flash_cli, json, output, stderr, stdout};

#[test]
fn experts_are_packed_and_nothing_is_overwritten() {
    let mixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../flash-model/tests/fixtures/tiny/qwen3_moe");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("packed");
    let pack = || flash_cli(["pack", "--model"]).arg(&mixture).arg("--out").arg(&out).output().unwrap();
    let packed = pack();
    assert!(packed.status.success(), "{}", stderr(&packed));
    assert_eq!(stdout(&packed), "");
    assert!(stderr(&packed).contains(" experts, "), "{}", stderr(&packed));

    let model_bytes = |dir: &Path| {
        json(&output(["inspect", "--model", dir.to_str().unwrap(), "--json"]))["model_bytes"].as_u64()
    };
    // These experts fill whole pages.
    assert_eq!(model_bytes(&out), model_bytes(&mixture));
    assert_refused(&pack(), 1, &["exists already"]);
    let again = dir.path().join("again");
    let again = flash_cli(["pack", "--model"]).arg(&out).arg("--out").arg(&again).output().unwrap();
    assert_refused(&again, 1, &["packed already"]);
}

#[test]
fn models_without_experts_are_refused() {
    let tiny = Tiny::new(2);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("packed");
    let packed = flash_cli(["pack", "--model", tiny.dir(), "--out"]).arg(&out).output().unwrap();
    assert_refused(&packed, 1, &["the model has no experts"]);
    assert!(!out.exists(), "nothing is left");
}
