//! Small synthetic models: a Llama and a Nemotron-H with random weights, and a tokenizer of whole words.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

const HIDDEN: u64 = 64;
const INTERMEDIATE: u64 = 128;
const KV: u64 = 32;
const VOCABULARY: u64 = 64;

/// Mamba-2 dimensions: heads, head dimension, groups, state dimension and convolution taps.
const MAMBA: [u64; 5] = [4, 16, 2, 16, 4];

/// Trained context of the models.
pub(crate) const CONTEXT_TOKENS: usize = 2048;

/// Words that are not numbers: the first is the unknown token, the second the end-of-sequence token.
const WORDS: [&str; 4] = ["<unk>", "</s>", "user", "assistant"];

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}\
                             {% if add_generation_prompt %}assistant{% endif %}";

/// A temporary model directory.
pub(crate) struct Tiny {
    dir: TempDir,
}

/// A tensor with its data.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

impl Tiny {
    /// Creates a Llama with `n_layers` layers.
    pub(crate) fn new(n_layers: usize) -> Self {
        Self::of(&config(n_layers), &tensors(n_layers))
    }

    /// Creates a Nemotron-H with four layers, two of them recurrent.
    pub(crate) fn recurrent() -> Self {
        Self::of(&recurrent_config(), &recurrent_tensors())
    }

    fn of(config: &Value, tensors: &[Tensor]) -> Self {
        let tiny = Self { dir: tempfile::tempdir().unwrap() };
        tiny.write_json("config.json", config);
        tiny.write_json("tokenizer.json", &tokenizer());
        tiny.write("chat_template.jinja", CHAT_TEMPLATE.as_bytes());
        tiny.write("model.safetensors", &shard(tensors));
        tiny
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the directory, as a command line argument.
    pub(crate) fn dir(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn write_json(&self, name: &str, value: &Value) {
        self.write(name, value.to_string().as_bytes());
    }

    /// Sets a field of config.json.
    pub(crate) fn set_config(&self, field: &str, value: Value) {
        let mut config: Map<String, Value> =
            serde_json::from_slice(&fs::read(self.path("config.json")).unwrap()).unwrap();
        config.insert(field.to_owned(), value);
        self.write_json("config.json", &Value::Object(config));
    }
}

fn config(n_layers: usize) -> Value {
    json!({
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
        "eos_token_id": 1,
    })
}

fn recurrent_config() -> Value {
    let [heads, head_dim, groups, state_dim, taps] = MAMBA;
    json!({
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M*-M",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "attention_bias": false,
        "mlp_bias": false,
        "use_bias": false,
        "mamba_num_heads": heads,
        "mamba_head_dim": head_dim,
        "mamba_proj_bias": false,
        "n_groups": groups,
        "ssm_state_size": state_dim,
        "conv_kernel": taps,
        "use_conv_bias": false,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_TOKENS,
        "layer_norm_epsilon": 1e-5,
        "eos_token_id": 1,
    })
}

fn tokenizer() -> Value {
    let numbers = (WORDS.len() as u64..VOCABULARY).map(|number| number.to_string());
    let words = WORDS.map(str::to_owned).into_iter().chain(numbers);
    let vocabulary: Map<String, Value> = (0..).zip(words).map(|(id, word)| (word, Value::from(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": WORDS[0] },
    })
}

/// Returns the tensors of a Llama with `n_layers` layers.
pub(crate) fn tensors(n_layers: usize) -> Vec<Tensor> {
    let mut random = Random(1);
    let mut tensors = vec![random.tensor("model.embed_tokens.weight".to_owned(), &[VOCABULARY, HIDDEN])];
    for layer_idx in 0..n_layers {
        let matrices = [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KV, HIDDEN),
            ("self_attn.v_proj", KV, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            ("mlp.up_proj", INTERMEDIATE, HIDDEN),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE),
        ];
        for (name, n_rows, n_cols) in matrices {
            tensors.push(random.tensor(format!("model.layers.{layer_idx}.{name}.weight"), &[n_rows, n_cols]));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(ones(format!("model.layers.{layer_idx}.{name}.weight")));
        }
    }
    tensors.push(ones("model.norm.weight".to_owned()));
    tensors
}

fn recurrent_tensors() -> Vec<Tensor> {
    let [heads, head_dim, groups, state_dim, taps] = MAMBA;
    let inner = heads * head_dim;
    let convolved = inner + 2 * groups * state_dim;
    let mamba: &[(&str, &[u64])] = &[
        ("in_proj.weight", &[inner + convolved + heads, HIDDEN]),
        ("conv1d.weight", &[convolved, taps, 1]),
        ("A_log", &[heads]),
        ("D", &[heads]),
        ("dt_bias", &[heads]),
        ("norm.weight", &[inner]),
        ("out_proj.weight", &[HIDDEN, inner]),
    ];
    let attention: &[(&str, &[u64])] = &[
        ("q_proj.weight", &[HIDDEN, HIDDEN]),
        ("k_proj.weight", &[KV, HIDDEN]),
        ("v_proj.weight", &[KV, HIDDEN]),
        ("o_proj.weight", &[HIDDEN, HIDDEN]),
    ];
    let mlp: &[(&str, &[u64])] =
        &[("up_proj.weight", &[INTERMEDIATE, HIDDEN]), ("down_proj.weight", &[HIDDEN, INTERMEDIATE])];
    let mut random = Random(1);
    let mut tensors = vec![random.tensor("backbone.embeddings.weight".to_owned(), &[VOCABULARY, HIDDEN])];
    for (layer_idx, mixer) in [mamba, attention, mlp, mamba].into_iter().enumerate() {
        let layer = format!("backbone.layers.{layer_idx}");
        tensors.push(ones(format!("{layer}.norm.weight")));
        for (name, shape) in mixer {
            tensors.push(random.tensor(format!("{layer}.mixer.{name}"), shape));
        }
    }
    tensors.push(ones("backbone.norm_f.weight".to_owned()));
    tensors.push(random.tensor("lm_head.weight".to_owned(), &[VOCABULARY, HIDDEN]));
    tensors
}

/// Returns the bytes of a safetensors file.
pub(crate) fn shard(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for Tensor { name, dtype, shape, data: bytes } in tensors {
        let start = data.len();
        data.extend(bytes);
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    shard_of(&Value::Object(header).to_string(), &data)
}

/// Returns the bytes of a safetensors file with the given header.
pub(crate) fn shard_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn ones(name: String) -> Tensor {
    Tensor { name, dtype: "F32", shape: vec![HIDDEN], data: 1f32.to_le_bytes().repeat(HIDDEN as usize) }
}

/// A linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn tensor(&mut self, name: String, shape: &[u64]) -> Tensor {
        let n_values: u64 = shape.iter().product();
        let data = (0..n_values).flat_map(|_| self.next().to_le_bytes()).collect();
        Tensor { name, dtype: "F32", shape: shape.to_vec(), data }
    }

    /// Returns a number from -0.5 to 0.5.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}
