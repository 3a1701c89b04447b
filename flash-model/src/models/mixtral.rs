//! Mixtral, as `mlx_lm/models/mixtral.py` has it.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::{Architecture, Layer, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::compute::Activation;
use crate::experts::{ExpertArgs, ExpertDims, GateArgs, MATRICES, Mixture, Names, Router, Scoring};
use crate::fused::Fused;
use crate::rope::{Rope, RopeArgs, RopeScaling};
use crate::weights::Weights;

const NAMES: Names = Names {
    stacked: "switch_mlp",
    stacked_matrices: MATRICES,
    each: "experts",
    each_matrices: ["w1", "w3", "w2"],
};

#[derive(Debug, Deserialize)]
struct ModelArgs {
    #[serde(default = "default_num_local_experts")]
    num_local_experts: usize,
    #[serde(default = "default_num_experts_per_tok")]
    num_experts_per_tok: usize,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    #[serde(default)]
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn default_num_local_experts() -> usize {
    8
}

fn default_num_experts_per_tok() -> usize {
    2
}

fn default_rope_theta() -> f32 {
    1e6
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::of(config)?, config.args::<ModelArgs>()?);
    let rope = sizes.rope(args.rope_theta, args.rope_scaling.as_ref());
    let rope = Rope::new(RopeArgs { traditional: args.rope_traditional, ..rope }, config)?;
    let n_experts = args.num_local_experts;
    // The softmax over the chosen is that over all, of which the chosen are made to add up to 1.
    let router = Router::new(args.num_experts_per_tok, n_experts, true, Scoring::Softmax, config)?;
    let dims = ExpertDims { n_experts, hidden: sizes.hidden_size, intermediate: sizes.intermediate_size };
    let experts = ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) };
    // All of its rows, which other families have under another name.
    let fused = Fused::parts("block_sparse_moe.gate", &[("mlp.gate", n_experts as i32)]);
    let layers = weights.with_fused(&fused);
    let usual = decoder(&layers, &sizes, args.tie_word_embeddings, |_, weights| {
        let (attention, gate) = (sizes.attention(Some(rope.clone())), GateArgs::default());
        let layer: Box<dyn Layer> =
            Box::new(TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?);
        let moe = weights.at("block_sparse_moe");
        Ok(LayerParts::mixed(layer, Mixture::new(&moe, NAMES, experts, router.clone())?))
    })?;
    Ok(Architecture { fused, ..usual })
}
