//! Qwen3-Next, as `mlx_lm/models/qwen3_next.py` has it: the layers of Qwen3.5, whose nets are projected by head of keys.

use serde::Deserialize;

use super::Architecture;
use super::qwen3_5::{Hybrid, ModelArgs, hybrid};
use super::sparse::SparseLayers;
use crate::ModelError;
use crate::nn::gated_delta::Projections;
use crate::nn::rope::RopeDefaults;
use crate::nn::weights::Weights;

/// What it says otherwise, or besides.
#[derive(Debug, Deserialize)]
struct OwnArgs {
    #[serde(default)]
    norm_topk_prob: bool,
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let own: OwnArgs = config.args()?;
    let mut args: ModelArgs = config.args()?;
    args.norm_topk_prob = own.norm_topk_prob;
    let sparse = SparseLayers::of(config)?;
    // Checkpoints as they are trained have a tensor for each expert.
    let is_trained = weights
        .checkpoint()
        .names()
        .any(|name| name.starts_with("model.layers.") && name.ends_with(".mlp.experts.0.up_proj.weight"));
    let is_sparse = |layer_idx| sparse.contain(layer_idx);
    hybrid(
        weights,
        &args,
        &Hybrid {
            // The part that is rotated is in every configuration.
            rope: RopeDefaults { partial: Some(1.0), ..RopeDefaults::default() },
            projections: Projections::ByKeyHead,
            is_trained,
            is_sparse: &is_sparse,
        },
    )
}
