//! Qwen3, as `mlx_lm/models/qwen3.py` has it.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::{Architecture, Layer, Sizes, decoder};
use crate::ModelError;
use crate::attention::AttentionArgs;
use crate::rope::{Rope, RopeScaling};
use crate::weights::Weights;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    tie_word_embeddings: bool,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeScaling>,
    /// Where newer configurations have the two above.
    rope_parameters: Option<RopeScaling>,
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::of(config)?, config.args::<ModelArgs>()?);
    let nested = args.rope_parameters.as_ref();
    let theta = args.rope_theta.or_else(|| nested?.rope_theta);
    let theta =
        theta.ok_or_else(|| config.field_error("rope_theta", &"missing", "it must be a positive number"))?;
    let rope = Rope::new(sizes.rope(theta, args.rope_scaling.as_ref().or(nested)), config)?;
    decoder(weights, &sizes, args.tie_word_embeddings, |_, weights| {
        let attention =
            AttentionArgs { head_norm: Some(sizes.norm()), ..sizes.attention(Some(rope.clone())) };
        let block: Box<dyn Layer> =
            Box::new(TransformerBlock::new(&sizes, &attention, sizes.mlp(), weights)?);
        Ok(block)
    })
}
