//! Mixtral (`mlx_lm/models/mixtral.py`).

use serde::Deserialize;

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::windows::{WindowPattern, Windows};
use super::{Architecture, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::compute::Activation;
use crate::nn::attention::AttentionArgs;
use crate::nn::fused::Fused;
use crate::nn::moe_gate::MoeGateArgs;
use crate::nn::rope::RopeDefaults;
use crate::nn::router::{Router, Scoring};
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::{ExpertArgs, ExpertDims, MATRICES, Mixture, Names};

const NAMES: Names = Names {
    stacked: "switch_mlp",
    stacked_matrices: MATRICES,
    each: "experts",
    each_matrices: ["w1", "w3", "w2"],
};

#[derive(Debug, Deserialize)]
struct ModelArgs {
    #[serde(default = "default_num_experts_per_tok")]
    num_experts_per_tok: usize,
}

fn default_num_experts_per_tok() -> usize {
    2
}

/// Builds a Mixtral decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let sizes = Sizes::from_config_with(config, |sizes| {
        sizes.rms_norm_eps.get_or_insert(1e-5);
        sizes.default_kv_heads(8, config);
    })?;
    let args: ModelArgs = config.args()?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    let windows = Windows::from_config(config, sizes.num_hidden_layers, WindowPattern::Sliding, None)?;
    let rope =
        sizes.rope(config, RopeDefaults { theta: Some(1e6), ..RopeDefaults::allowing_traditional() })?;
    let n_experts = config.n_experts()?.unwrap_or(8);
    // The softmax over the top-k logits equals the softmax over all, renormalized to the top k.
    let router = Router::new(args.num_experts_per_tok, n_experts, true, Scoring::Softmax, config)?;
    let dims = ExpertDims { n_experts, hidden: sizes.hidden_size, intermediate: sizes.intermediate_size };
    let experts = ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) };
    // Renames the router: `mlp.gate` in other families.
    let fused = Fused::parts("block_sparse_moe.gate", &[("mlp.gate", n_experts as i32)]);
    let layers = weights.with_fused(&fused);
    let base = decoder(&layers, &sizes, |layer_idx, weights| {
        let window = windows.of_layer(layer_idx);
        let attention = AttentionArgs { window, ..sizes.attention_args(Some(rope.clone())) };
        let gate = MoeGateArgs::default();
        let block = TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?;
        let moe = weights.at("block_sparse_moe");
        Ok(LayerParts::with_mixture(block, Mixture::new(&moe, NAMES, experts, router.clone())?))
    })?;
    Ok(Architecture { fused, ..base })
}
