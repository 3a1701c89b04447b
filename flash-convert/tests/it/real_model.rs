//! SmolLM2-135M-Instruct, checked against an independent converter and mlx-lm: `goldens/smollm2.json`, made by
//! `goldens/make_smollm2.py`. Requires the GGUF file at the path in `FLASH_TEST_GGUF`.

use std::collections::BTreeMap;
use std::env;
use std::ops::ControlFlow;
use std::path::PathBuf;

use flash_convert::{Conversion, Target};
use flash_kernels::FloatType;
use safetensors::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::converted::{Converted, json as read_json, read};

/// SHA-256 of the GGUF file.
const GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

const SHARD_BYTES: u64 = 50_000_000;

fn gguf() -> Option<PathBuf> {
    let path = env::var_os("FLASH_TEST_GGUF").map(PathBuf::from);
    match path.filter(|path| path.exists()) {
        Some(path) => {
            let digest = Sha256::digest(std::fs::read(&path).unwrap());
            assert_eq!(format!("{digest:x}"), GGUF_SHA256, "{}", path.display());
            Some(path)
        }
        None => {
            eprintln!("skipped: FLASH_TEST_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf");
            None
        }
    }
}

/// Returns the digest of each module's tensors, like the golden.
fn digests(model: &Converted) -> BTreeMap<&str, String> {
    let mut hashers: BTreeMap<&str, Sha256> = BTreeMap::new();
    for (name, tensor) in &model.tensors {
        let (module, _) = name.rsplit_once('.').unwrap();
        let dtype = match tensor.dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::U32 => "U32",
            other => panic!("{name}: {other:?}"),
        };
        let hasher = hashers.entry(module).or_default();
        hasher.update(format!("{name} {dtype} {:?} ", tensor.shape));
        hasher.update(&tensor.bytes);
    }
    let digests = hashers.into_iter();
    digests.map(|(module, hasher)| (module, format!("{:x}", hasher.finalize())[..16].to_owned())).collect()
}

/// Sorts the keys of all objects, which makes the comparison independent of `serde_json`'s `preserve_order` feature.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let by_key: BTreeMap<_, _> = entries.into_iter().collect();
            by_key.into_iter().map(|(key, value)| (key, sorted(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

#[test]
fn every_target_equals_the_independent_converter_and_mlx_lm() {
    let Some(gguf) = gguf() else {
        return;
    };
    let golden: Value = serde_json::from_str(include_str!("../goldens/smollm2.json")).unwrap();
    let conversion = Conversion::open(&gguf).unwrap();
    let quantize = |bits| Target::Quantize { bits, group_size: 64 };
    for (name, target) in [
        ("keep", Target::Keep),
        ("f32", Target::Dense(FloatType::F32)),
        ("f16", Target::Dense(FloatType::F16)),
        ("8bit", quantize(8)),
        ("4bit", quantize(4)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let plan = conversion.plan(target, SHARD_BYTES).unwrap();
        assert_eq!(plan.lossy().count() == 0, matches!(name, "keep" | "f32"));
        let report = plan.run(&out, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(report.n_shards > 1);
        let model = read(&out, report);
        assert_eq!(json!(digests(&model)), golden["weights"][name], "{name}");

        if let Some(config) = golden["config.json"].get(name) {
            assert_eq!(&model.config, config, "{name}");
        }
        for file in ["tokenizer_config.json", "generation_config.json"] {
            assert_eq!(read_json(&out.join(file)), golden[file], "{file}");
        }
        let tokenizer = sorted(read_json(&out.join("tokenizer.json"))).to_string();
        assert_eq!(format!("{:x}", Sha256::digest(tokenizer)), golden["tokenizer.json"]);
    }
}
