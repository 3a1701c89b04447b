//! Greedy ids equal mlx-lm's in float32 for the configurations of mlx-lm's own tests.
//!
//! `goldens/mlx_lm_configs` has the configurations, the tensors of each, and mlx-lm's outputs; `make.py` there
//! regenerates them, and lists where a configuration differs from mlx-lm's. Weights are generated here, from the same
//! pseudo-random numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flash_model::Compute;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{engine_on, tests};

/// Backends of this platform.
const COMPUTES: &[Compute] =
    if cfg!(target_os = "linux") { &[Compute::Native, Compute::Mlx] } else { &[Compute::Mlx] };

/// Relative tolerance of the largest logit.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Goldens {
    prompt: Vec<u32>,
    models: BTreeMap<String, Golden>,
}

#[derive(Deserialize)]
struct Golden {
    config: Map<String, Value>,
    tensors: Vec<(String, Vec<u64>)>,
    ids: Vec<u32>,
    max_logits: Vec<f32>,
}

/// Generates the weights of a tensor, as `weight` in `make.py`.
fn weights(name: &str, shape: &[u64]) -> Vec<f32> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let scale = (3.0 / shape[shape.len() - 1] as f32).sqrt();
    let len: u64 = shape.iter().product();
    (0..len)
        .map(|place| {
            let mut x = seed.wrapping_add(place.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            x ^= x >> 31;
            let unit = (x >> 40) as f32 * 2.0_f32.powi(-24);
            if shape.len() == 1 { unit * 0.5 + 0.25 } else { (unit - 0.5) * 2.0 * scale }
        })
        .collect()
}

/// Writes a model directory.
fn write(dir: &Path, golden: &Golden) {
    fs::write(dir.join("config.json"), Value::Object(golden.config.clone()).to_string()).unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in &golden.tensors {
        let start = data.len();
        for weight in weights(name, shape) {
            data.extend_from_slice(&weight.to_le_bytes());
        }
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    fs::write(dir.join("model.safetensors"), file).unwrap();
}

#[test]
fn configurations_of_mlx_lms_tests_give_its_ids() {
    let path = tests().join("goldens/mlx_lm_configs/goldens.json");
    let Goldens { prompt, models } = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(models.len() > 20, "a golden for each configuration");
    let mut wrong = Vec::new();
    for (name, golden) in &models {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), golden);
        for &compute in COMPUTES {
            let mut engine = engine_on(dir.path(), prompt.len() + golden.ids.len(), compute);
            let (mut given, mut ids) = (prompt.clone(), Vec::new());
            for wanted in &golden.max_logits {
                let logits = engine.forward(&given).unwrap();
                let best =
                    (0..logits.len()).reduce(|best, id| if logits[id] > logits[best] { id } else { best });
                let best = best.unwrap();
                if (logits[best] - wanted).abs() > TOLERANCE * wanted.abs() {
                    wrong.push(format!("{name}, {compute:?}: logit {} for {wanted}", logits[best]));
                }
                ids.push(best as u32);
                given = vec![best as u32];
            }
            if ids != golden.ids {
                wrong.push(format!("{name}, {compute:?}: {ids:?} for {:?}", golden.ids));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
