//! Qwen3-MoE (`mlx_lm/models/qwen3_moe.py`).

use serde::Deserialize;

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::sparse::{SparseLayers, required_experts};
use super::windows::{WindowPattern, Windows};
use super::{Architecture, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::compute::Activation;
use crate::nn::attention::AttentionArgs;
use crate::nn::moe_gate::MoeGateArgs;
use crate::nn::rope::RopeDefaults;
use crate::nn::router::{Router, Scoring};
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::{ExpertArgs, ExpertDims, Mixture, Names};

#[derive(Debug, Deserialize)]
struct ModelArgs {
    num_experts_per_tok: usize,
    moe_intermediate_size: i32,
    norm_topk_prob: bool,
}

/// Builds a Qwen3-MoE decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::from_config(config)?, config.args::<ModelArgs>()?);
    config.expect("hidden_act", &SILU.map(Into::into))?;
    let sparse = SparseLayers::from_config(config)?;
    // transformers slides in all layers; mlx-lm supports neither windows nor RoPE scaling here.
    let windows = Windows::from_config(config, sizes.num_hidden_layers, WindowPattern::Full, None)?;
    config.expect("use_sliding_window", &[false.into()])?;
    config.expect("use_qk_norm", &[true.into()])?;
    let rope = sizes.rope(config, RopeDefaults::default())?;
    let (n_experts, hidden) = (required_experts(config)?, sizes.hidden_size);
    let intermediate = config.length("moe_intermediate_size", args.moe_intermediate_size)?;
    let router =
        Router::new(args.num_experts_per_tok, n_experts, args.norm_topk_prob, Scoring::Softmax, config)?;
    let dims = ExpertDims { n_experts, hidden, intermediate };
    let experts = ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) };
    decoder(weights, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs {
            head_norm: Some(sizes.norm_args()),
            window: windows.of_layer(layer_idx),
            ..sizes.attention_args(Some(rope.clone()))
        };
        if n_experts == 0 || !sparse.contains(layer_idx) {
            return Ok(TransformerBlock::new(&sizes, &attention, sizes.mlp_args(), weights)?.into());
        }
        let gate = MoeGateArgs::default();
        let block = TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?;
        let mlp = weights.at("mlp");
        Ok(LayerParts::with_mixture(block, Mixture::new(&mlp, Names::USUAL, experts, router.clone())?))
    })
}
