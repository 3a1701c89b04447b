//! Llama, as `mlx_lm/models/llama.py` has it.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::layer_types::LayerTypes;
use super::{Architecture, Layer, Sizes, decoder};
use crate::attention::AttentionArgs;
use crate::mlp::MlpArgs;
use crate::rope::{Rope, RopeArgs, RopeScaling};
use crate::weights::Weights;
use crate::{Config, ModelError};

#[derive(Debug, Deserialize)]
pub(super) struct ModelArgs {
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    #[serde(default)]
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    #[serde(default = "default_tie_word_embeddings")]
    tie_word_embeddings: bool,
    layer_types: Option<LayerTypes>,
    sliding_window: Option<usize>,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

fn default_tie_word_embeddings() -> bool {
    true
}

impl ModelArgs {
    /// The window of a layer, if it has one.
    fn window(&self, layer_idx: usize, config: &Config) -> Result<Option<usize>, ModelError> {
        let window = |kinds: &LayerTypes| kinds.window(layer_idx, self.sliding_window, config);
        self.layer_types.as_ref().map_or(Ok(None), window)
    }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    with_positions(weights, |_| true)
}

/// The model, whose layers know of positions where `has_positions` says so of them.
pub(super) fn with_positions(
    weights: &Weights<'_>,
    has_positions: impl Fn(usize) -> bool,
) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::of(config)?, config.args::<ModelArgs>()?);
    let rope = sizes.rope(args.rope_theta, args.rope_scaling.as_ref());
    let rope = Rope::new(RopeArgs { traditional: args.rope_traditional, ..rope }, config)?;
    decoder(weights, &sizes, args.tie_word_embeddings, |layer_idx, weights| {
        let attention = AttentionArgs {
            qkv_bias: args.attention_bias,
            output_bias: args.attention_bias,
            window: args.window(layer_idx, config)?,
            ..sizes.attention(has_positions(layer_idx).then(|| rope.clone()))
        };
        let mlp = MlpArgs { bias: args.mlp_bias, ..sizes.mlp() };
        let block: Box<dyn Layer> = Box::new(TransformerBlock::new(&sizes, &attention, mlp, weights)?);
        Ok(block)
    })
}
