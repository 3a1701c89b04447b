use std::collections::BTreeMap;

use serde::Serialize;

use super::rope::RopeScaling;
use crate::error::ConvertError;
use crate::gguf::GgufFile;

/// What a file that states no `rope.freq_base` means.
const ROPE_THETA_DEFAULT: f32 = 10_000.0;

/// Settings that change the computation in a way that config.json of `llama` cannot say.
const REFUSED: [(&str, &str); 6] = [
    ("llama.attention.scale", "attention scores are always scaled by the head's size"),
    ("llama.attention.clamp_kqv", "queries, keys and values are never clamped"),
    ("llama.attention.sliding_window", "attention always covers the whole context"),
    ("llama.embedding_scale", "embeddings are never scaled"),
    ("llama.residual_scale", "residuals are never scaled"),
    ("llama.logit_scale", "logits are never scaled"),
];

/// config.json of a `llama` model, in Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Config {
    architectures: [&'static str; 1],
    model_type: &'static str,
    hidden_act: &'static str,
    pub(crate) hidden_size: u32,
    pub(crate) num_hidden_layers: u32,
    pub(crate) num_attention_heads: u32,
    pub(crate) num_key_value_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) intermediate_size: u32,
    pub(crate) vocab_size: u32,
    pub(crate) max_position_embeddings: u32,
    rms_norm_eps: f64,
    pub(crate) rope_theta: f64,
    rope_traditional: bool,
    pub(crate) rope_scaling: Option<RopeScaling>,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) tie_word_embeddings: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bos_token_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eos_token_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pad_token_id: Option<u32>,
    pub(crate) torch_dtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quantization: Option<Quantization>,
    /// The same again, under the name that Hugging Face looks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quantization_config: Option<Quantization>,
}

/// How the quantised modules are stored: what most have in common, and the modules that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Quantization {
    #[serde(flatten)]
    pub(crate) common: AffineParams,
    #[serde(flatten)]
    pub(crate) overrides: BTreeMap<String, AffineParams>,
}

/// An affine format, as config.json describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct AffineParams {
    pub(crate) group_size: usize,
    pub(crate) bits: u32,
    pub(crate) mode: &'static str,
}

impl Config {
    /// Reads all settings but the scaling of positions, which depends on a tensor.
    pub(super) fn read(gguf: &GgufFile) -> Result<Self, ConvertError> {
        refuse(gguf)?;
        let hidden_size = positive(gguf, "llama.embedding_length")?;
        let num_attention_heads = positive(gguf, "llama.attention.head_count")?;
        let has_tensor = |suffixes: &[&str]| {
            let mut tensors = gguf.header().tensors.iter();
            tensors.any(|tensor| suffixes.iter().any(|suffix| tensor.name.ends_with(suffix)))
        };
        let epsilon = "llama.attention.layer_norm_rms_epsilon";
        let rope_theta = gguf.checked(gguf.metadata().float("llama.rope.freq_base"))?;
        let token = |key| gguf.checked(gguf.metadata().u32(key));
        Ok(Self {
            architectures: ["LlamaForCausalLM"],
            model_type: "llama",
            hidden_act: "silu",
            hidden_size,
            num_hidden_layers: positive(gguf, "llama.block_count")?,
            num_attention_heads,
            num_key_value_heads: kv_heads(gguf, num_attention_heads)?,
            head_dim: head_dim(gguf, hidden_size, num_attention_heads)?,
            intermediate_size: positive(gguf, "llama.feed_forward_length")?,
            vocab_size: vocab_size(gguf)?,
            max_position_embeddings: positive(gguf, "llama.context_length")?,
            rms_norm_eps: shortest(gguf.required(epsilon, gguf.metadata().float(epsilon))?),
            rope_theta: shortest(rope_theta.unwrap_or(ROPE_THETA_DEFAULT)),
            rope_traditional: false,
            rope_scaling: None,
            attention_bias: has_tensor(&[
                ".attn_q.bias",
                ".attn_k.bias",
                ".attn_v.bias",
                ".attn_output.bias",
            ]),
            mlp_bias: has_tensor(&[".ffn_gate.bias", ".ffn_up.bias", ".ffn_down.bias"]),
            tie_word_embeddings: gguf.tensor("output.weight").is_none(),
            bos_token_id: token("tokenizer.ggml.bos_token_id")?,
            eos_token_id: token("tokenizer.ggml.eos_token_id")?,
            pad_token_id: token("tokenizer.ggml.padding_token_id")?,
            torch_dtype: "float32",
            quantization: None,
            quantization_config: None,
        })
    }
}

/// The `f64` whose shortest decimal form is that of `value`: 1e-5 and not 9.999999747378752e-6.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn unsupported(gguf: &GgufFile, key: &str, found: String, reason: &'static str) -> ConvertError {
    ConvertError::Unsupported { path: gguf.path().to_owned(), key: key.to_owned(), found, reason }
}

fn refuse(gguf: &GgufFile) -> Result<(), ConvertError> {
    let metadata = gguf.metadata();
    let key = "llama.expert_count";
    if let Some(n_experts) = gguf.checked(metadata.u32(key))?
        && n_experts > 0
    {
        let reason = "mixtures of experts cannot be converted";
        return Err(unsupported(gguf, key, n_experts.to_string(), reason));
    }
    let key = "split.count";
    if let Some(n_files) = gguf.checked(metadata.u32(key))?
        && n_files > 1
    {
        let reason = "merge the files first, with llama-gguf-split --merge";
        return Err(unsupported(gguf, key, n_files.to_string(), reason));
    }
    let key = "llama.attention.causal";
    if gguf.checked(metadata.boolean(key))? == Some(false) {
        let reason = "attention is always causal";
        return Err(unsupported(gguf, key, "false".to_owned(), reason));
    }
    for (key, reason) in REFUSED {
        if let Some(value) = metadata.get(key) {
            return Err(unsupported(gguf, key, format!("{value:?}"), reason));
        }
    }
    Ok(())
}

/// A count that must be there and not 0.
fn positive(gguf: &GgufFile, key: &str) -> Result<u32, ConvertError> {
    match gguf.required(key, gguf.metadata().u32(key))? {
        0 => Err(unsupported(gguf, key, "0".to_owned(), "it must be positive")),
        count => Ok(count),
    }
}

fn kv_heads(gguf: &GgufFile, n_heads: u32) -> Result<u32, ConvertError> {
    let key = "llama.attention.head_count_kv";
    if gguf.metadata().get(key).is_none() {
        return Ok(n_heads);
    }
    let n_kv_heads = positive(gguf, key)?;
    if n_heads.is_multiple_of(n_kv_heads) {
        Ok(n_kv_heads)
    } else {
        let reason = "it must divide the number of heads";
        Err(unsupported(gguf, key, n_kv_heads.to_string(), reason))
    }
}

/// The size of a head: keys, values and rotated part must agree on it.
fn head_dim(gguf: &GgufFile, hidden_size: u32, n_heads: u32) -> Result<u32, ConvertError> {
    const KEYS: [&str; 3] =
        ["llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"];
    let mut head_dim = None;
    for key in KEYS {
        if let Some(found) = gguf.checked(gguf.metadata().u32(key))?
            && (*head_dim.get_or_insert(found) != found || found == 0 || found % 2 == 1)
        {
            let reason = "keys, values and their rotated part must be of one even size";
            return Err(unsupported(gguf, key, found.to_string(), reason));
        }
    }
    if let Some(head_dim) = head_dim {
        return Ok(head_dim);
    }
    if hidden_size.is_multiple_of(n_heads) && (hidden_size / n_heads).is_multiple_of(2) {
        Ok(hidden_size / n_heads)
    } else {
        let reason = "no whole even number of values for each head";
        let key = "llama.embedding_length";
        Err(unsupported(gguf, key, hidden_size.to_string(), reason))
    }
}

/// The rows of the embedding, with which the metadata may not disagree.
fn vocab_size(gguf: &GgufFile) -> Result<u32, ConvertError> {
    let name = "token_embd.weight";
    let tensor = gguf.tensor(name).ok_or_else(|| ConvertError::MissingTensor {
        path: gguf.path().to_owned(),
        tensor: name.to_owned(),
    })?;
    let n_rows = tensor.dims.get(1).copied().unwrap_or(1);
    let key = "llama.vocab_size";
    let stated = gguf.checked(gguf.metadata().u32(key))?;
    let vocab_size = u32::try_from(n_rows).ok();
    match (vocab_size, stated) {
        (Some(vocab_size), None) => Ok(vocab_size),
        (Some(vocab_size), Some(stated)) if vocab_size == stated => Ok(vocab_size),
        _ => Err(unsupported(
            gguf,
            key,
            stated.map_or("absent".to_owned(), |stated| stated.to_string()),
            "token_embd.weight has another number of rows",
        )),
    }
}
