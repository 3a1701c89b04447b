//! Qwen2, as `mlx_lm/models/qwen2.py` has it.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::{Architecture, Layer, Sizes, decoder};
use crate::ModelError;
use crate::attention::AttentionArgs;
use crate::rope::{Rope, RopeArgs, RopeScaling};
use crate::weights::Weights;

#[derive(Debug, Deserialize)]
#[serde(default)]
struct ModelArgs {
    rope_theta: f32,
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    tie_word_embeddings: bool,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            rope_theta: 1_000_000.0,
            rope_traditional: false,
            rope_scaling: None,
            tie_word_embeddings: true,
        }
    }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    // Heads share the hidden size, whatever else the configuration says.
    let sizes = Sizes::with(config, |sizes| sizes.head_dim = None)?;
    let args: ModelArgs = config.args()?;
    let rope = sizes.rope(args.rope_theta, args.rope_scaling.as_ref());
    let rope = Rope::new(RopeArgs { traditional: args.rope_traditional, ..rope }, config)?;
    let attention = AttentionArgs { qkv_bias: true, ..sizes.attention(Some(rope)) };
    decoder(weights, &sizes, args.tie_word_embeddings, |_, weights| {
        let block: Box<dyn Layer> =
            Box::new(TransformerBlock::new(&sizes, &attention, sizes.mlp(), weights)?);
        Ok(block)
    })
}
