//! `inspect`.

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, floor_mib, json, output, stdout};

#[test]
fn json_says_what_the_model_is_made_of() {
    let tiny = Tiny::new(3);
    let report = json(&output(["inspect", "--model", tiny.dir(), "--json"]));
    assert_eq!(report["model_type"], "llama");
    assert_eq!(report["n_tensors"], 2 + 3 * 9);
    // f32: the embedding, matrices of a layer, and norms.
    let (embedding, attention, mlp, norms) =
        (64 * 64 * 4, 3 * 192 * 64 * 4, 3 * 3 * 128 * 64 * 4, 7 * 64 * 4);
    assert_eq!(report["model_bytes"], embedding + attention + mlp + norms);
    let kinds = &report["bytes_by_kind"];
    assert_eq!((&kinds["embedding"], &kinds["attention"]), (&embedding.into(), &attention.into()));
    assert_eq!((&kinds["mlp"], &kinds["norms"], &kinds["other"]), (&mlp.into(), &norms.into(), &0.into()));
    assert_eq!(report["kv_token_bytes"], 3 * 2 * 32 * 4);
    assert_eq!(report["tensors"][0]["name"], "model.embed_tokens.weight");
    assert_eq!(report["tensors"][0]["shape"], serde_json::json!([64, 64]));
    let bundles = report["bundles"].as_array().unwrap();
    assert_eq!(bundles[0]["name"], "model.layers.0");
    assert_eq!(bundles[0]["n_tensors"], 9);
}

#[test]
fn floor_without_the_pipeline_is_lower_and_run_agrees() {
    let tiny = Tiny::new(8);
    let report = json(&output(["inspect", "--model", tiny.dir(), "--json"]));
    let floor = |field: &str| report[field].as_u64().unwrap();
    assert!(floor("floor_no_pipeline_bytes") < floor("floor_bytes"));
    let of_run = floor_mib(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "200"]) << 20;
    assert!(of_run.abs_diff(floor("floor_bytes")) <= 4 << 20, "{of_run} B, and {report}");
}

#[test]
fn layers_are_one_row() {
    let tiny = Tiny::new(3);
    let output = output(["inspect", "--model", tiny.dir()]);
    let text = stdout(&output);
    for part in ["Memory\n", "minimum --ram", "model.layers.*.mlp.up_proj.weight", "× 3", "F32", "[128, 64]"]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(text.matches("up_proj").count(), 1, "{text}");
}

#[test]
fn a_model_without_a_tokenizer_can_be_looked_at() {
    let tiny = Tiny::new(1);
    std::fs::remove_file(tiny.path("tokenizer.json")).unwrap();
    assert!(output(["inspect", "--model", tiny.dir()]).status.success());
}

#[test]
fn tiles_are_bundles_of_their_own() {
    let tiny = Tiny::new(1);
    let report = json(&output(["inspect", "--model", tiny.dir(), "--json", "--tile-size", "64"]));
    let names: Vec<_> =
        report["bundles"].as_array().unwrap().iter().map(|bundle| bundle["name"].as_str().unwrap()).collect();
    // Matrices that are smaller than a tile should be stay whole.
    let in_order = [
        "model.layers.0",
        "model.layers.0.self_attn.q_proj[0..64]",
        "model.layers.0.self_attn.k_proj[0..",
        "model.layers.0.self_attn.v_proj[0..",
        "model.layers.0.self_attn.o_proj[0..64]",
        "model.layers.0.mlp.gate_proj[0..128]",
        "model.layers.0.mlp.up_proj[0..128]",
        "model.layers.0.mlp.down_proj[0..64]",
        "model.norm",
    ];
    for (name, expected) in names.iter().zip(in_order) {
        assert!(name.starts_with(expected), "{name} is not {expected}");
    }
    for rows in ["0", "3"] {
        let refused = output(["inspect", "--model", tiny.dir(), "--tile-size", rows]);
        assert_refused(&refused, 2, &["--tile-size <ROWS>", rows]);
    }
}
