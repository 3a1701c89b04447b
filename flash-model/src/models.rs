//! The architectures, one file each, named as in mlx-lm.

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

use flash_kv::Halves;
use serde::Deserialize;

use crate::ModelError;
use crate::kv::Keeps;
use crate::nn::fused::Fused;
use crate::nn::layer::Layer;
use crate::nn::layers::{Linear, RmsNorm};
use crate::nn::rope::RopeSettings;
use crate::nn::weights::Weights;
use crate::stream::experts::Mixture;

pub(crate) use sizes::Sizes;

/// A layer, its experts if it has any, and what it keeps of the tokens that have passed.
#[derive(Debug)]
pub(crate) struct LayerParts {
    pub layer: Box<dyn Layer>,
    pub mixture: Option<Mixture>,
    /// What the sum of its experts passes before it is added to hidden states, where they work on other numbers; and its path.
    pub experts_out: Option<(String, Linear)>,
    pub keeps: Keeps,
}

impl LayerParts {
    /// A layer that attends, and has experts.
    fn mixed(layer: Box<dyn Layer>, mixture: Mixture) -> Self {
        Self { mixture: Some(mixture), ..layer.into() }
    }
}

impl From<Box<dyn Layer>> for LayerParts {
    fn from(layer: Box<dyn Layer>) -> Self {
        Self { layer, mixture: None, experts_out: None, keeps: Keeps::KeysValues }
    }
}

/// A decoder as its architecture describes it. No weight is loaded.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The layers, each with the path of its tensors.
    pub layers: Vec<(String, LayerParts)>,
    /// Which of their tensors have others' rows, too.
    pub fused: Vec<Fused>,
    pub embed_path: String,
    /// What embeddings are multiplied by.
    pub embed_scale: f32,
    pub norm_path: String,
    /// Behind the last layer.
    pub norm: RmsNorm,
    /// That of the embedding if the two are tied.
    pub head_path: String,
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub n_heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Whether values are kept beside keys.
    pub halves: Halves,
    /// Bytes of what layers make of their weights.
    pub derived_bytes: u64,
    pub vocab_size: i32,
    /// The longest context that the model was trained for, or is stretched to.
    pub max_position_embeddings: Option<usize>,
    /// The longest context that it can have at all, if there is such an end.
    pub positions_max: Option<usize>,
}

type Build = fn(&Weights<'_>) -> Result<Architecture, ModelError>;

/// `model_type` → architecture.
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

/// Models that others are: `model_type` → whose. As mlx-lm's `MODEL_REMAPPING`.
const ALIASES: &[(&str, &str)] = &[
    ("mistral", "llama"),
    ("iquestcoder", "llama"),
    ("xverse", "llama"),
    ("kimi_k2", "deepseek_v3"),
    ("joyai_llm_flash", "deepseek_v3"),
];

/// The architecture that a checkpoint's configuration names.
pub(crate) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
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

/// What a checkpoint calls the parts of a decoder.
#[derive(Debug, Clone, Copy)]
struct DecoderNames {
    /// Where all but the head is.
    model: &'static str,
    embed: &'static str,
    norm: &'static str,
    head: &'static str,
}

/// A decoder whose parts have the usual names, its layers made one by one.
fn decoder<L: Into<LayerParts>>(
    weights: &Weights<'_>,
    sizes: &Sizes,
    layer: impl Fn(usize, &Weights<'_>) -> Result<L, ModelError>,
) -> Result<Architecture, ModelError> {
    let usual = DecoderNames { model: "model", embed: "embed_tokens", norm: "norm", head: "lm_head" };
    decoder_of(usual, weights, sizes, layer)
}

/// The same with other names.
fn decoder_of<L: Into<LayerParts>>(
    names: DecoderNames,
    weights: &Weights<'_>,
    sizes: &Sizes,
    layer: impl Fn(usize, &Weights<'_>) -> Result<L, ModelError>,
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
    let rope = RopeSettings::of_full(weights.config())?;
    Ok(Architecture {
        layers,
        fused: Vec::new(),
        embed_scale: 1.0,
        embed_path: embed.path().to_owned(),
        norm_path: norm.path().to_owned(),
        norm: norm.rms_norm(sizes.hidden_size, sizes.norm())?,
        head_path: head.path().to_owned(),
        hidden_size: sizes.hidden_size,
        intermediate_size: sizes.intermediate_size,
        n_heads: sizes.num_attention_heads,
        kv_heads: sizes.kv_heads(),
        head_dim: sizes.head_dim(),
        halves: Halves::KeysAndValues,
        derived_bytes: 0,
        vocab_size: sizes.vocab_size,
        positions_max: rope.positions_max(weights.config())?,
        max_position_embeddings: rope.stretched_positions(sizes.max_position_embeddings, weights.config())?,
    })
}

/// Families that use a head which is there even if the configuration says that it is tied, as in mlx-lm.
const TENSORS_DECIDE: &[&str] = &[
    "gemma3",
    "gemma3_text",
    "gpt_oss",
    "deepseek_v3",
    "kimi_k2",
    "joyai_llm_flash",
    "nemotron_h",
    "qwen2_moe",
];

/// Whether the embedding is the head, too. A configuration that does not say is Hugging Face's or mlx-lm's, whose defaults
/// differ: then it is if there is no other head.
fn is_tied(head: &Weights<'_>) -> Result<bool, ModelError> {
    #[derive(Deserialize)]
    struct Args {
        tie_word_embeddings: Option<bool>,
    }
    let config = head.config();
    let Args { tie_word_embeddings: own } = config.args()?;
    let Args { tie_word_embeddings: outer } = config.top_args()?;
    let has_head = head.checkpoint().has(&format!("{}.weight", head.path()));
    if TENSORS_DECIDE.contains(&config.model_type())
        && (has_head || config.model_type().starts_with("gemma3"))
    {
        return Ok(!has_head);
    }
    Ok(own.unwrap_or(!has_head && outer.unwrap_or(true)))
}
