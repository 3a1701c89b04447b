//! Qwen3-Next, as `mlx_lm/models/qwen3_next.py` has it: the layers of Qwen3.5, whose nets are projected by head of keys.

use serde::Deserialize;

use super::Architecture;
use super::qwen3_5::{Hybrid, ModelArgs, Rotation, hybrid};
use crate::ModelError;
use crate::gated_delta::Projections;
use crate::rope::RopeScaling;
use crate::weights::Weights;

/// What it says otherwise, or besides.
#[derive(Debug, Deserialize)]
struct OwnArgs {
    rope_theta: f32,
    partial_rotary_factor: f32,
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    norm_topk_prob: bool,
    /// Experts are in every so many layers.
    decoder_sparse_step: usize,
    /// Layers without experts.
    mlp_only_layers: Vec<usize>,
}

impl OwnArgs {
    fn has_experts(&self, layer_idx: usize) -> bool {
        !self.mlp_only_layers.contains(&layer_idx)
            && (layer_idx + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let own: OwnArgs = config.args()?;
    let mut args: ModelArgs = config.args()?;
    args.norm_topk_prob = own.norm_topk_prob;
    let OwnArgs { rope_theta: theta, partial_rotary_factor: part, ref rope_scaling, .. } = own;
    // Checkpoints as they are trained have a tensor for each expert.
    let is_trained = weights
        .checkpoint()
        .names()
        .any(|name| name.starts_with("model.layers.") && name.ends_with(".mlp.experts.0.up_proj.weight"));
    let is_sparse = |layer_idx| own.has_experts(layer_idx);
    let scaling = rope_scaling.as_ref();
    hybrid(
        weights,
        &args,
        &Hybrid {
            rotation: Rotation { part, theta, scaling },
            projections: Projections::ByKeyHead,
            is_trained,
            is_sparse: &is_sparse,
        },
    )
}
