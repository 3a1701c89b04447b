//! Qwen2-MoE (`mlx_lm/models/qwen2_moe.py`).

use serde::Deserialize;

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::sparse::{SparseLayers, required_experts};
use super::windows::{WindowPattern, Windows};
use super::{Architecture, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::compute::Activation;
use crate::nn::attention::AttentionArgs;
use crate::nn::mlp::MlpArgs;
use crate::nn::moe_gate::MoeGateArgs;
use crate::nn::rope::RopeDefaults;
use crate::nn::router::{Router, Scoring};
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::{ExpertArgs, ExpertDims, Mixture, Names};

#[derive(Debug, Deserialize)]
struct ModelArgs {
    num_experts_per_tok: usize,
    moe_intermediate_size: i32,
    shared_expert_intermediate_size: i32,
    /// Read as in transformers; mlx-lm ignores it (`false`), and makes every layer sparse.
    #[serde(default)]
    norm_topk_prob: bool,
    #[serde(default = "default_qkv_bias")]
    qkv_bias: bool,
}

fn default_qkv_bias() -> bool {
    true
}

/// Builds a Qwen2-MoE decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    // The family ignores `head_dim`: it is hidden_size / num_attention_heads.
    let sizes = Sizes::from_config_with(config, |sizes| sizes.head_dim = None)?;
    let args: ModelArgs = config.args()?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    let sparse = SparseLayers::from_config(config)?;
    let windows =
        Windows::from_config(config, sizes.num_hidden_layers, WindowPattern::FromMaxWindowLayers, None)?;
    let rope = sizes
        .rope(config, RopeDefaults { theta: Some(1_000_000.0), ..RopeDefaults::allowing_traditional() })?;
    let (n_experts, hidden) = (required_experts(config)?, sizes.hidden_size);
    let router =
        Router::new(args.num_experts_per_tok, n_experts, args.norm_topk_prob, Scoring::Softmax, config)?;
    let intermediate = config.length("moe_intermediate_size", args.moe_intermediate_size)?;
    let dims = ExpertDims { n_experts, hidden, intermediate };
    let experts = ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) };
    let field = "shared_expert_intermediate_size";
    let intermediate_size = config.length(field, args.shared_expert_intermediate_size)?;
    let shared = MlpArgs { intermediate_size, ..sizes.mlp_args() };
    let gate = MoeGateArgs { shared_expert: Some(shared), ..MoeGateArgs::default() };
    let is_dense = (0..sizes.num_hidden_layers).any(|layer_idx| !sparse.contains(layer_idx));
    let base = decoder(weights, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs {
            qkv_bias: args.qkv_bias,
            window: windows.of_layer(layer_idx),
            ..sizes.attention_args(Some(rope.clone()))
        };
        if !sparse.contains(layer_idx) {
            return Ok(TransformerBlock::new(&sizes, &attention, sizes.mlp_args(), weights)?.into());
        }
        let block = TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?;
        let mlp = weights.at("mlp");
        Ok(LayerParts::with_mixture(block, Mixture::new(&mlp, Names::USUAL, experts, router.clone())?))
    })?;
    let dense_size = if is_dense { base.intermediate_size } else { 0 };
    Ok(Architecture { intermediate_size: intermediate_size.max(dense_size), ..base })
}
