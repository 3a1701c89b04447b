use std::collections::BTreeMap;

use serde::Serialize;

use super::rope::RopeScaling;
use super::settings::Settings;
use crate::error::ConvertError;

/// RoPE base of a file without `rope.freq_base`.
const ROPE_THETA_DEFAULT: f32 = 10_000.0;

/// Settings that change the computation and have no field in config.json.
const REFUSED: [(&str, &str); 7] = [
    ("attention.scale", "attention scores are always scaled by the head's size"),
    ("attention.clamp_kqv", "queries, keys and values are never clamped"),
    ("embedding_scale", "embeddings are never scaled by a setting"),
    ("residual_scale", "residuals are never scaled"),
    ("logit_scale", "logits are never scaled"),
    ("attn_logit_softcapping", "attention scores are never capped"),
    ("final_logit_softcapping", "logits are never capped"),
];

/// RoPE base of sliding-window layers in every published Gemma 3; GGUF does not store it.
const GEMMA_LOCAL_THETA: f64 = 10_000.0;
/// Period of full-attention layers in every published Gemma 3; GGUF does not store it.
const GEMMA_PATTERN: u32 = 6;
/// Number of layers of Gemma 3 27B, the only one that scales scores by hidden size / heads instead of the head size.
const GEMMA_27B_LAYERS: u32 = 62;

/// config.json of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Config {
    architectures: [&'static str; 1],
    model_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_act: Option<&'static str>,
    #[serde(flatten)]
    gemma: Option<Gemma>,
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
    /// Only in Llama; the biases of other architectures are fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attention_bias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mlp_bias: Option<bool>,
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
    /// Copy of `quantization` under the name Hugging Face tools read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quantization_config: Option<Quantization>,
}

/// Fields of Gemma's config.json.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Gemma {
    hidden_activation: &'static str,
    query_pre_attn_scalar: u32,
    rope_local_base_freq: f64,
    sliding_window: u32,
    sliding_window_pattern: u32,
}

/// `quantization` of config.json: the common format, and overrides by module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Quantization {
    #[serde(flatten)]
    pub(crate) common: AffineParams,
    #[serde(flatten)]
    pub(crate) overrides: BTreeMap<String, AffineParams>,
}

/// Parameters of an affine format in config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct AffineParams {
    pub(crate) group_size: usize,
    pub(crate) bits: u32,
    pub(crate) mode: &'static str,
}

impl Config {
    /// Reads all settings except RoPE scaling, which depends on a tensor.
    pub(super) fn read(settings: &Settings<'_>) -> Result<Self, ConvertError> {
        let Settings { gguf, architecture } = *settings;
        check_supported(settings)?;
        let hidden_size = settings.positive("embedding_length")?;
        let num_hidden_layers = settings.positive("block_count")?;
        let num_attention_heads = settings.positive("attention.head_count")?;
        let head_dim = head_dim(settings, hidden_size, num_attention_heads)?;
        let has_tensor = |suffixes: &[&str]| {
            let mut tensors = gguf.header().tensors.iter();
            tensors.any(|tensor| suffixes.iter().any(|suffix| tensor.name.ends_with(suffix)))
        };
        let is_llama = architecture.has_qkv_biases.is_none();
        let rope_theta = settings.float("rope.freq_base")?;
        let token = |key| gguf.checked(gguf.metadata().u32(key));
        let gemma = architecture.is_gemma.then(|| {
            Ok(Gemma {
                hidden_activation: "gelu_pytorch_tanh",
                query_pre_attn_scalar: match num_hidden_layers {
                    GEMMA_27B_LAYERS => hidden_size / num_attention_heads,
                    _ => head_dim,
                },
                rope_local_base_freq: GEMMA_LOCAL_THETA,
                sliding_window: settings.positive("attention.sliding_window")?,
                sliding_window_pattern: GEMMA_PATTERN,
            })
        });
        Ok(Self {
            architectures: [architecture.class],
            model_type: architecture.model_type,
            hidden_act: (!architecture.is_gemma).then_some("silu"),
            gemma: gemma.transpose()?,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: kv_heads(settings, num_attention_heads)?,
            head_dim,
            intermediate_size: settings.positive("feed_forward_length")?,
            vocab_size: vocab_size(settings)?,
            max_position_embeddings: settings.positive("context_length")?,
            rms_norm_eps: shortest(settings.required_float("attention.layer_norm_rms_epsilon")?),
            rope_theta: shortest(rope_theta.unwrap_or(ROPE_THETA_DEFAULT)),
            rope_traditional: false,
            rope_scaling: None,
            attention_bias: is_llama
                .then(|| has_tensor(&[".attn_q.bias", ".attn_k.bias", ".attn_v.bias", ".attn_output.bias"])),
            mlp_bias: is_llama.then(|| has_tensor(&[".ffn_gate.bias", ".ffn_up.bias", ".ffn_down.bias"])),
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

/// Returns the `f64` with the shortest decimal form of `value`: 1e-5 instead of 9.999999747378752e-6.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Rejects settings that config.json cannot express.
fn check_supported(settings: &Settings<'_>) -> Result<(), ConvertError> {
    let Settings { gguf, architecture } = *settings;
    let name = "expert_count";
    if let Some(n_experts) = settings.u32(name)?
        && n_experts > 0
    {
        let reason = "mixtures of experts cannot be converted";
        return Err(settings.unsupported(name, n_experts.to_string(), reason));
    }
    let name = "attention.causal";
    if settings.boolean(name)? == Some(false) {
        return Err(settings.unsupported(name, "false".to_owned(), "attention is always causal"));
    }
    let window = ("attention.sliding_window", "attention always covers the whole context");
    for (name, reason) in REFUSED.into_iter().chain((!architecture.is_gemma).then_some(window)) {
        if let Some(value) = gguf.metadata().get(&settings.key(name)) {
            return Err(settings.unsupported(name, format!("{value:?}"), reason));
        }
    }
    Ok(())
}

fn kv_heads(settings: &Settings<'_>, n_heads: u32) -> Result<u32, ConvertError> {
    let name = "attention.head_count_kv";
    if !settings.has(name) {
        return Ok(n_heads);
    }
    let n_kv_heads = settings.positive(name)?;
    if n_heads.is_multiple_of(n_kv_heads) {
        Ok(n_kv_heads)
    } else {
        Err(settings.unsupported(name, n_kv_heads.to_string(), "it must divide the number of heads"))
    }
}

/// Returns the head size, which keys, values and their rotated part must share.
fn head_dim(settings: &Settings<'_>, hidden_size: u32, n_heads: u32) -> Result<u32, ConvertError> {
    const NAMES: [&str; 3] = ["attention.key_length", "attention.value_length", "rope.dimension_count"];
    let whole = (hidden_size.is_multiple_of(n_heads)).then_some(hidden_size / n_heads);
    let mut head_dim = None;
    for name in NAMES {
        let Some(found) = settings.u32(name)? else { continue };
        let reason = if *head_dim.get_or_insert(found) != found || found == 0 || found % 2 == 1 {
            "keys, values and their rotated part must have the same even size"
        } else if !settings.architecture.has_head_dim && Some(found) != whole {
            "it must be the hidden size divided by the number of heads"
        } else {
            continue;
        };
        return Err(settings.unsupported(name, found.to_string(), reason));
    }
    let head_dim = head_dim.or(whole.filter(|whole| whole.is_multiple_of(2)));
    head_dim.ok_or_else(|| {
        let reason = "divided by the number of heads it must be an even integer";
        settings.unsupported("embedding_length", hidden_size.to_string(), reason)
    })
}

/// Returns the number of rows of the embedding, which the metadata must not contradict.
fn vocab_size(settings: &Settings<'_>) -> Result<u32, ConvertError> {
    let gguf = settings.gguf;
    let name = "token_embd.weight";
    let tensor = gguf.tensor(name).ok_or_else(|| ConvertError::MissingTensor {
        path: gguf.path().to_owned(),
        tensor: name.to_owned(),
    })?;
    let n_rows = tensor.dims.get(1).copied().unwrap_or(1);
    let stated = settings.u32("vocab_size")?;
    let vocab_size = u32::try_from(n_rows).ok();
    match (vocab_size, stated) {
        (Some(vocab_size), None) => Ok(vocab_size),
        (Some(vocab_size), Some(stated)) if vocab_size == stated => Ok(vocab_size),
        _ => Err(settings.unsupported(
            "vocab_size",
            stated.map_or("absent".to_owned(), |stated| stated.to_string()),
            "token_embd.weight has a different number of rows",
        )),
    }
}
