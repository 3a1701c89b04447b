//! Random Llama and Mixtral models of a few KB each, written as MLX writes them: tensors in any order, data at any
//! byte.

use std::fs;
use std::path::Path;

use half::f16;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Map, Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    /// Affine codes of this many bits, in groups of 32.
    Affine(u32),
}

#[derive(Debug, Clone)]
pub(crate) struct Tiny {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab: usize,
    pub(crate) tied: bool,
    pub(crate) biases: bool,
    /// Experts per layer and per token, if there are any.
    pub(crate) experts: Option<[usize; 2]>,
    pub(crate) format: Format,
    pub(crate) seed: u64,
}

const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 96;
const HEAD_DIM: usize = 16;
const GROUP: usize = 32;

pub(crate) fn tiny() -> impl Strategy<Value = Tiny> {
    let format =
        prop_oneof![Just(Format::F32), Just(Format::F16), Just(Format::Affine(4)), Just(Format::Affine(8))];
    let heads = prop_oneof![Just((4, 4)), Just((4, 2)), Just((4, 1))];
    let experts = prop::option::of(
        (1..9usize, 1..4usize).prop_map(|(of_layer, of_token)| [of_layer, of_token.min(of_layer)]),
    );
    let form = (1..5usize, heads, 40..300usize, any::<bool>(), any::<bool>());
    (form, experts, format, any::<u64>()).prop_map(
        |((layers, (heads, kv_heads), vocab, tied, biases), experts, format, seed)| Tiny {
            layers,
            heads,
            kv_heads,
            vocab,
            tied,
            // Mixtral has none.
            biases: biases && experts.is_none(),
            experts,
            format,
            seed,
        },
    )
}

/// Name, dtype, shape and bytes of a tensor.
type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

impl Tiny {
    pub(crate) fn write(&self, dir: &Path) {
        let mut rng = TestRng::from_seed(RngAlgorithm::XorShift, &{
            let mut seed = [7; 16];
            seed[..8].copy_from_slice(&self.seed.to_le_bytes());
            seed
        });
        let mut tensors = Vec::new();
        self.matrix(&mut rng, &mut tensors, "model.embed_tokens", self.vocab, HIDDEN, false);
        for layer_idx in 0..self.layers {
            let path = |name: &str| format!("model.layers.{layer_idx}.{name}");
            let (q, kv) = (self.heads * HEAD_DIM, self.kv_heads * HEAD_DIM);
            for (name, rows, columns) in [
                ("self_attn.q_proj", q, HIDDEN),
                ("self_attn.k_proj", kv, HIDDEN),
                ("self_attn.v_proj", kv, HIDDEN),
                ("self_attn.o_proj", HIDDEN, q),
            ] {
                self.matrix(&mut rng, &mut tensors, &path(name), rows, columns, self.biases);
            }
            for (name, rows, columns) in [
                ("gate_proj", INTERMEDIATE, HIDDEN),
                ("up_proj", INTERMEDIATE, HIDDEN),
                ("down_proj", HIDDEN, INTERMEDIATE),
            ] {
                let Some([n_experts, _]) = self.experts else {
                    let path = path(&format!("mlp.{name}"));
                    self.matrix(&mut rng, &mut tensors, &path, rows, columns, self.biases);
                    continue;
                };
                // The rows of all experts, concatenated.
                let path = path(&format!("block_sparse_moe.switch_mlp.{name}"));
                let first = tensors.len();
                self.matrix(&mut rng, &mut tensors, &path, n_experts * rows, columns, false);
                for (_, _, shape, _) in &mut tensors[first..] {
                    shape.splice(0..1, [n_experts, rows]);
                }
            }
            if let Some([n_experts, _]) = self.experts {
                let path = path("block_sparse_moe.gate.weight");
                // Between -1 and 1, so that tokens choose different experts.
                let values = (0..n_experts * HIDDEN).flat_map(|_| uniform(&mut rng).to_le_bytes()).collect();
                tensors.push((path, "F32", vec![n_experts, HIDDEN], values));
            }
            tensors.push(floats(&mut rng, path("input_layernorm.weight"), &[HIDDEN], 1.0, self.format));
            tensors.push(floats(
                &mut rng,
                path("post_attention_layernorm.weight"),
                &[HIDDEN],
                1.0,
                self.format,
            ));
        }
        tensors.push(floats(&mut rng, "model.norm.weight".into(), &[HIDDEN], 1.0, self.format));
        if !self.tied {
            self.matrix(&mut rng, &mut tensors, "lm_head", self.vocab, HIDDEN, false);
        }
        for idx in (1..tensors.len()).rev() {
            tensors.swap(idx, rng.next_u32() as usize % (idx + 1));
        }
        write_safetensors(&dir.join("model.safetensors"), &tensors);
        fs::write(dir.join("config.json"), self.config().to_string()).unwrap();
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": self.layers,
            "intermediate_size": INTERMEDIATE, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": HEAD_DIM, "rms_norm_eps": 1e-5,
            "vocab_size": self.vocab, "tie_word_embeddings": self.tied, "attention_bias": self.biases,
            "mlp_bias": self.biases, "max_position_embeddings": 2048,
        });
        if let Some([of_layer, of_token]) = self.experts {
            config["model_type"] = json!("mixtral");
            config["num_local_experts"] = json!(of_layer);
            config["num_experts_per_tok"] = json!(of_token);
        }
        if let Format::Affine(bits) = self.format {
            config["quantization"] = json!({ "group_size": GROUP, "bits": bits });
        }
        config
    }

    fn matrix(
        &self,
        rng: &mut TestRng,
        out: &mut Vec<Tensor>,
        path: &str,
        rows: usize,
        columns: usize,
        bias: bool,
    ) {
        if bias {
            out.push(floats(rng, format!("{path}.bias"), &[rows], 0.0, self.format));
        }
        let Format::Affine(bits) = self.format else {
            out.push(floats(rng, format!("{path}.weight"), &[rows, columns], 0.0, self.format));
            return;
        };
        let words = columns * bits as usize / 32;
        let codes = (0..rows * words).flat_map(|_| rng.next_u32().to_le_bytes()).collect();
        out.push((format!("{path}.weight"), "U32", vec![rows, words], codes));
        let groups = [rows, columns / GROUP];
        let code_max = ((1 << bits) - 1) as f32;
        let halves = |value: &dyn Fn(f32) -> f32, rng: &mut TestRng| -> Vec<u8> {
            (0..rows * groups[1]).flat_map(|_| f16::from_f32(value(uniform(rng))).to_le_bytes()).collect()
        };
        let scales = halves(&|x| 0.2 * (1.5 + x) / code_max, rng);
        let biases = halves(&|x| -0.15 + 0.02 * x, rng);
        out.push((format!("{path}.scales"), "F16", groups.to_vec(), scales));
        out.push((format!("{path}.biases"), "F16", groups.to_vec(), biases));
    }
}

/// Returns a random number between -1 and 1.
fn uniform(rng: &mut TestRng) -> f32 {
    rng.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0
}

fn floats(rng: &mut TestRng, name: String, shape: &[usize], center: f32, format: Format) -> Tensor {
    let values = (0..shape.iter().product()).map(|_| center + 0.1 * uniform(rng));
    if format == Format::F32 {
        (name, "F32", shape.to_vec(), values.flat_map(f32::to_le_bytes).collect())
    } else {
        (name, "F16", shape.to_vec(), values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect())
    }
}

fn write_safetensors(path: &Path, tensors: &[Tensor]) {
    let mut header = Map::new();
    let mut offset = 0;
    for (name, dtype, shape, bytes) in tensors {
        let end = offset + bytes.len();
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    // No padding: the data begins wherever the header ends.
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    for (.., bytes) in tensors {
        file.extend_from_slice(bytes);
    }
    fs::write(path, file).unwrap();
}
