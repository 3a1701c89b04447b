//! Model families, one file each, named as in mlx-lm.

mod block;
mod deepseek_v3;
mod gemma3;
mod gemma3_text;
mod gpt_oss;
mod llama;
mod mixtral;
mod nemotron_h;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod sizes;
mod smollm3;
mod sparse;
mod windows;

use flash_kv::KvParts;
use serde::Deserialize;

use crate::ModelError;
use crate::kv::CacheKind;
use crate::nn::fused::Fused;
use crate::nn::layer::Layer;
use crate::nn::layers::{Linear, RmsNorm};
use crate::nn::rope::RopeSettings;
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::Mixture;

pub(crate) use sizes::Sizes;

/// A decoder layer with its mixture of experts, if any, and the kind of its cache.
#[derive(Debug)]
pub(crate) struct LayerParts {
    pub layer: Box<dyn Layer>,
    pub mixture: Option<Mixture>,
    /// The projection from the experts' latent space back to hidden states, with its path; `None` if experts work on
    /// hidden states.
    pub experts_out: Option<(String, Linear)>,
    /// Kind of the cache of the layer.
    pub keeps: CacheKind,
}

impl LayerParts {
    /// An attention layer with a mixture of experts.
    fn with_mixture(layer: impl Layer + 'static, mixture: Mixture) -> Self {
        Self { mixture: Some(mixture), ..layer.into() }
    }
}

impl<L: Layer + 'static> From<L> for LayerParts {
    /// An attention layer without experts.
    fn from(layer: L) -> Self {
        Self { layer: Box::new(layer), mixture: None, experts_out: None, keeps: CacheKind::KeysValues }
    }
}

/// A decoder: its layers without loaded weights, and the sizes that memory planning needs.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The layers, each with the path of its tensors in the checkpoint.
    pub layers: Vec<(String, LayerParts)>,
    /// Matrices that the checkpoint stores as rows of a fused tensor.
    pub fused: Vec<Fused>,
    pub embed_path: String,
    /// Factor on the embeddings.
    pub embed_scale: f32,
    pub norm_path: String,
    /// The norm after the last layer.
    pub norm: RmsNorm,
    /// Equal to `embed_path` if the head is tied to the embedding.
    pub head_path: String,
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub n_heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Whether the KV cache stores values beside keys.
    pub parts: KvParts,
    /// Bytes of the weights that layers derive from loaded ones.
    pub derived_bytes: u64,
    pub vocab_size: i32,
    /// The longest context that the model was trained for, or extended to by RoPE scaling.
    pub max_position_embeddings: Option<usize>,
    /// Hard limit of the context length, if there is one.
    pub positions_max: Option<usize>,
}

type Build = fn(&VarBuilder<'_>) -> Result<Architecture, ModelError>;

/// Constructors by `model_type`.
const MODELS: &[(&str, Build)] = &[
    ("deepseek_v3", deepseek_v3::build),
    ("gemma3", gemma3::build),
    ("gemma3_text", gemma3_text::build),
    ("gpt_oss", gpt_oss::build),
    ("llama", llama::build),
    ("mixtral", mixtral::build),
    ("nemotron_h", nemotron_h::build),
    ("phi3", phi3::build),
    ("qwen2", qwen2::build),
    ("qwen2_moe", qwen2_moe::build),
    ("qwen3", qwen3::build),
    ("qwen3_5", qwen3_5::build),
    ("qwen3_5_moe", qwen3_5::build),
    ("qwen3_moe", qwen3_moe::build),
    ("qwen3_next", qwen3_next::build),
    ("smollm3", smollm3::build),
];

/// Aliases of `model_type`, as in mlx-lm's `MODEL_REMAPPING`: alias, family.
const ALIASES: &[(&str, &str)] = &[
    ("mistral", "llama"),
    ("iquestcoder", "llama"),
    ("xverse", "llama"),
    ("kimi_k2", "deepseek_v3"),
    ("joyai_llm_flash", "deepseek_v3"),
];

/// Builds the architecture that the checkpoint's `model_type` names.
///
/// # Errors
/// [`ModelError::UnknownModelType`], or an error of the family for fields or tensors that it does not support.
pub(crate) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let given = config.model_type();
    let alias = ALIASES.iter().find(|(alias, _)| *alias == given);
    let model_type = alias.map_or(given, |(_, model_type)| model_type);
    let found = MODELS.iter().find(|(known, _)| *known == model_type);
    let (_, build) = found.ok_or_else(|| ModelError::UnknownModelType {
        path: config.path().to_owned(),
        given: given.to_owned(),
        known: MODELS
            .iter()
            .map(|(known, _)| *known)
            .chain(ALIASES.iter().map(|(alias, _)| *alias))
            .collect(),
    })?;
    build(weights)
}

/// Tensor paths of the parts of a decoder.
#[derive(Debug, Clone, Copy)]
struct DecoderNames {
    /// Path of everything but the head.
    model: &'static str,
    embed: &'static str,
    norm: &'static str,
    head: &'static str,
}

/// Builds a decoder whose parts have the usual names; `layer` builds each layer.
fn decoder<L: Into<LayerParts>>(
    weights: &VarBuilder<'_>,
    sizes: &Sizes,
    layer: impl Fn(usize, &VarBuilder<'_>) -> Result<L, ModelError>,
) -> Result<Architecture, ModelError> {
    let names = DecoderNames { model: "model", embed: "embed_tokens", norm: "norm", head: "lm_head" };
    decoder_with_names(names, weights, sizes, layer)
}

/// Builds a decoder whose parts have these names; `layer` builds each layer.
fn decoder_with_names<L: Into<LayerParts>>(
    names: DecoderNames,
    weights: &VarBuilder<'_>,
    sizes: &Sizes,
    layer: impl Fn(usize, &VarBuilder<'_>) -> Result<L, ModelError>,
) -> Result<Architecture, ModelError> {
    let model = weights.at(names.model);
    let layers = (0..sizes.num_hidden_layers)
        .map(|layer_idx| {
            let weights = model.at(&format!("layers.{layer_idx}"));
            Ok((weights.path().to_owned(), layer(layer_idx, &weights)?.into()))
        })
        .collect::<Result<_, ModelError>>()?;
    let (embed, norm) = (model.at(names.embed), model.at(names.norm));
    let own_head = weights.at(names.head);
    let head = if is_tied(&own_head)? { embed.clone() } else { own_head };
    let rope = RopeSettings::full_attention(weights.config())?;
    Ok(Architecture {
        layers,
        fused: Vec::new(),
        embed_scale: 1.0,
        embed_path: embed.path().to_owned(),
        norm_path: norm.path().to_owned(),
        norm: norm.rms_norm(sizes.hidden_size, sizes.norm_args())?,
        head_path: head.path().to_owned(),
        hidden_size: sizes.hidden_size,
        intermediate_size: sizes.intermediate_size,
        n_heads: sizes.num_attention_heads,
        kv_heads: sizes.kv_heads(),
        head_dim: sizes.head_dim(),
        parts: KvParts::KeysAndValues,
        derived_bytes: 0,
        vocab_size: sizes.vocab_size,
        positions_max: rope.positions_max(weights.config())?,
        max_position_embeddings: rope.extended_positions(sizes.max_position_embeddings, weights.config())?,
    })
}

/// Families in which a stored head overrides `tie_word_embeddings`, as in mlx-lm.
const TIED_BY_TENSORS: &[&str] = &[
    "gemma3",
    "gemma3_text",
    "gpt_oss",
    "deepseek_v3",
    "kimi_k2",
    "joyai_llm_flash",
    "nemotron_h",
    "qwen2_moe",
];

/// Returns whether the head is tied to the embedding. Hugging Face and mlx-lm have different defaults for
/// `tie_word_embeddings`, so where it is absent the head is tied unless its tensor is stored.
fn is_tied(head: &VarBuilder<'_>) -> Result<bool, ModelError> {
    #[derive(Deserialize)]
    struct Args {
        tie_word_embeddings: Option<bool>,
    }
    let config = head.config();
    let Args { tie_word_embeddings: own } = config.args()?;
    let Args { tie_word_embeddings: outer } = config.top_args()?;
    let has_head = head.checkpoint().has(&format!("{}.weight", head.path()));
    if TIED_BY_TENSORS.contains(&config.model_type())
        && (has_head || config.model_type().starts_with("gemma3"))
    {
        return Ok(!has_head);
    }
    Ok(own.unwrap_or(!has_head && outer.unwrap_or(true)))
}
