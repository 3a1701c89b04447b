//! Qwen3-Next (`mlx_lm/models/qwen3_next.py`): Qwen3.5 with the projections of the gated delta net fused by key head.

use serde::Deserialize;

use super::Architecture;
use super::qwen3_5::{HybridOptions, ModelArgs, build_hybrid};
use super::sparse::SparseLayers;
use crate::ModelError;
use crate::nn::gated_delta::Projections;
use crate::nn::rope::RopeDefaults;
use crate::nn::var_builder::VarBuilder;

/// Fields whose defaults differ from Qwen3.5.
#[derive(Debug, Deserialize)]
struct OwnArgs {
    #[serde(default)]
    norm_topk_prob: bool,
}

/// Builds a Qwen3-Next decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let own: OwnArgs = config.args()?;
    let mut args: ModelArgs = config.args()?;
    args.norm_topk_prob = own.norm_topk_prob;
    let sparse = SparseLayers::from_config(config)?;
    // Hugging Face checkpoints have a tensor for each expert; mlx-lm stacks them.
    let is_hf_layout = weights
        .checkpoint()
        .names()
        .any(|name| name.starts_with("model.layers.") && name.ends_with(".mlp.experts.0.up_proj.weight"));
    let is_sparse = |layer_idx| sparse.contains(layer_idx);
    build_hybrid(
        weights,
        &args,
        &HybridOptions {
            // Every configuration gives `partial_rotary_factor`.
            rope: RopeDefaults { partial: Some(1.0), ..RopeDefaults::default() },
            projections: Projections::ByKeyHead,
            is_hf_layout,
            is_sparse: &is_sparse,
        },
    )
}
