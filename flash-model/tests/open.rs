//! Opening a model of any size reads headers only. The only test of its binary, because it counts the reads of the
//! whole process.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::Write;

use flash_io::IoMode;
use flash_model::{Checkpoint, EngineOptions, Model, Workload};
use serde_json::{Map, Value, json};

const LAYERS: usize = 32;
const HIDDEN: u64 = 4096;
const INTERMEDIATE: u64 = 14336;
const VOCAB: u64 = 128_256;

/// Returns the bytes that the process has read through system calls.
fn read_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn opening_a_sparse_model_of_32_gb_reads_less_than_a_megabyte() {
    let dir = tempfile::tempdir().unwrap();
    let mut weight_map = Map::new();
    let mut shard = |file: &str, tensors: &[(String, Vec<u64>)]| {
        let mut header = Map::new();
        let mut offset = 0;
        for (name, shape) in tensors {
            let end = offset + 4 * shape.iter().product::<u64>();
            header.insert(
                name.clone(),
                json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] }),
            );
            weight_map.insert(name.clone(), json!(file));
            offset = end;
        }
        let header = Value::Object(header).to_string();
        let mut out = File::create(dir.path().join(file)).unwrap();
        out.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        out.write_all(header.as_bytes()).unwrap();
        // The data is a hole of a sparse file, which takes no space on disk.
        out.set_len(8 + header.len() as u64 + offset).unwrap();
    };
    for layer in 0..LAYERS {
        let matrix =
            |name: &str, rows, columns| (format!("model.layers.{layer}.{name}.weight"), vec![rows, columns]);
        let norm = |name: &str| (format!("model.layers.{layer}.{name}.weight"), vec![HIDDEN]);
        let tensors = [
            matrix("self_attn.q_proj", HIDDEN, HIDDEN),
            matrix("self_attn.k_proj", HIDDEN / 4, HIDDEN),
            matrix("self_attn.v_proj", HIDDEN / 4, HIDDEN),
            matrix("self_attn.o_proj", HIDDEN, HIDDEN),
            matrix("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            matrix("mlp.up_proj", INTERMEDIATE, HIDDEN),
            matrix("mlp.down_proj", HIDDEN, INTERMEDIATE),
            norm("input_layernorm"),
            norm("post_attention_layernorm"),
        ];
        shard(&format!("model-{layer:02}.safetensors"), &tensors);
    }
    let outer = [
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    shard("model-outer.safetensors", &outer);
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        json!({ "weight_map": weight_map }).to_string(),
    )
    .unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "intermediate_size": INTERMEDIATE, "num_attention_heads": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "vocab_size": VOCAB, "tie_word_embeddings": false,
    });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();

    let before = read_bytes();
    let model = Model::open(Checkpoint::open(dir.path(), IoMode::Pread).unwrap()).unwrap();
    assert!(model.model_bytes() > 32_000_000_000);
    let workload = Workload::new(1, 1);
    let floor_bytes = model.floor_bytes(&workload);
    assert!(floor_bytes < 4 << 30, "{floor_bytes}");
    let options = EngineOptions::new(floor_bytes / 2, workload);
    model.load(&options).unwrap_err();
    let read = read_bytes() - before;
    assert!(read < 1 << 20, "{read} B were read");
}
