//! Gemma 3's text model, as `mlx_lm/models/gemma3_text.py` has it.

use half::bf16;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;
use serde::Deserialize;

use super::{Architecture, Layer, LayerOutput, Sizes, decoder};
use crate::attention::{Attention, AttentionArgs, LayerInput};
use crate::compute::Activation;
use crate::layers::{NormArgs, RmsNorm};
use crate::mlp::{Mlp, MlpArgs};
use crate::rope::{Rope, RopeScaling};
use crate::weights::Weights;
use crate::{Config, ModelError};

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    pub num_attention_heads: Option<i32>,
    head_dim: i32,
    rms_norm_eps: f32,
    pub vocab_size: Option<i32>,
    pub num_key_value_heads: Option<i32>,
    rope_theta: f32,
    rope_local_base_freq: f32,
    query_pre_attn_scalar: f32,
    sliding_window: usize,
    sliding_window_pattern: usize,
    max_position_embeddings: usize,
    rope_scaling: Option<RopeScaling>,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            hidden_size: 1152,
            num_hidden_layers: 26,
            intermediate_size: 6912,
            num_attention_heads: None,
            head_dim: 256,
            rms_norm_eps: 1e-6,
            vocab_size: None,
            num_key_value_heads: None,
            rope_theta: 1_000_000.0,
            rope_local_base_freq: 10_000.0,
            query_pre_attn_scalar: 256.0,
            sliding_window: 512,
            sliding_window_pattern: 6,
            max_position_embeddings: 32_768,
            rope_scaling: None,
        }
    }
}

impl ModelArgs {
    fn sizes(&self, config: &Config) -> Result<Sizes, ModelError> {
        let sizes = Sizes {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads.unwrap_or(4),
            num_key_value_heads: Some(self.num_key_value_heads.unwrap_or(1)),
            head_dim: Some(self.head_dim),
            rms_norm_eps: self.rms_norm_eps,
            vocab_size: self.vocab_size.unwrap_or(262_144),
            max_position_embeddings: Some(self.max_position_embeddings),
        };
        sizes.check(config)?;
        config.positive("rope_local_base_freq", self.rope_local_base_freq)?;
        config.positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        for (field, given) in
            [("sliding_window", self.sliding_window), ("sliding_window_pattern", self.sliding_window_pattern)]
        {
            if given == 0 {
                return Err(config.field_error(field, &given, "it must be positive"));
            }
        }
        Ok(sizes)
    }

    /// Whether a layer sees a window of recent tokens only.
    fn is_sliding(&self, layer_idx: usize) -> bool {
        !(layer_idx + 1).is_multiple_of(self.sliding_window_pattern)
    }
}

#[derive(Debug, ModuleParameters)]
struct TransformerBlock {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: Mlp,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
    #[param]
    pre_feedforward_layernorm: RmsNorm,
    #[param]
    post_feedforward_layernorm: RmsNorm,
}

impl TransformerBlock {
    fn new(sizes: &Sizes, attention: &AttentionArgs, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, around_zero(sizes));
        let mlp = MlpArgs { activation: Some(Activation::GeluTanh), ..sizes.mlp() };
        Ok(Self {
            self_attn: Attention::new(attention, &weights.at("self_attn"))?,
            mlp: Mlp::new(mlp, &weights.at("mlp"))?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
        })
    }
}

impl Module<LayerInput<'_>> for TransformerBlock {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, LayerInput { x, kv, position }: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let normed = self.input_layernorm.of(x)?;
        let attended = self.self_attn.of(LayerInput { x: &normed, kv, position })?;
        let h = self.post_attention_layernorm.add(x, &attended)?;
        let fed = self.mlp.of(&self.pre_feedforward_layernorm.of(&h)?)?;
        Ok(self.post_feedforward_layernorm.add(&h, &fed)?.into())
    }

    fn training_mode(&mut self, _: bool) {}
}

impl Layer for TransformerBlock {}

/// Norms have their weights around zero.
fn around_zero(sizes: &Sizes) -> NormArgs {
    NormArgs { weight_offset: 1.0, ..sizes.norm() }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    with_args(weights, &weights.config().args()?)
}

/// The model of these arguments.
pub(super) fn with_args(weights: &Weights<'_>, args: &ModelArgs) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let sizes = args.sizes(config)?;
    let local_rope = Rope::new(sizes.rope(args.rope_local_base_freq, None), config)?;
    let global_rope = Rope::new(sizes.rope(args.rope_theta, args.rope_scaling.as_ref()), config)?;
    let attention = AttentionArgs {
        scale: args.query_pre_attn_scalar.powf(-0.5),
        head_norm: Some(around_zero(&sizes)),
        ..sizes.attention(Some(global_rope))
    };
    let sliding =
        AttentionArgs { window: Some(args.sliding_window), rope: Some(local_rope), ..attention.clone() };
    let is_tied = !weights.checkpoint().has(&format!("{}.weight", weights.at("lm_head").path()));
    let usual = decoder(weights, &sizes, is_tied, |layer_idx, weights| {
        let attention = if args.is_sliding(layer_idx) { &sliding } else { &attention };
        let block: Box<dyn Layer> = Box::new(TransformerBlock::new(&sizes, attention, weights)?);
        Ok(block)
    })?;
    Ok(Architecture {
        // Of the precision in which the model was trained.
        embed_scale: bf16::from_f64(f64::from(sizes.hidden_size).sqrt()).to_f32(),
        norm: weights.at("model.norm").rms_norm(sizes.hidden_size, around_zero(&sizes))?,
        ..usual
    })
}
