//! gpt-oss (`mlx_lm/models/gpt_oss.py`).

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
use crate::stream::experts::{ExpertArgs, ExpertDims, MATRICES, Mixture};

#[derive(Debug, Deserialize)]
#[serde(default)]
struct ModelArgs {
    num_experts_per_tok: usize,
    /// Factor on the argument of the sigmoid in SwiGLU.
    swiglu_alpha: f32,
    /// Clamp of the gate and the up projection.
    swiglu_limit: f32,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self { num_experts_per_tok: 4, swiglu_alpha: 1.702, swiglu_limit: 7.0 }
    }
}

/// Builds a gpt-oss decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let args: ModelArgs = config.args()?;
    let sizes = Sizes::from_config_with(config, |sizes| {
        sizes.rms_norm_eps.get_or_insert(1e-5);
        sizes.default_kv_heads(8, config);
        sizes.head_dim.get_or_insert(64);
    })?;
    config.positive("swiglu_limit", args.swiglu_limit)?;
    config.positive("swiglu_alpha", args.swiglu_alpha)?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    config.expect("attention_bias", &[true.into()])?;
    config.expect("experts_per_token", &[args.num_experts_per_tok.into()])?;
    let rope = sizes.rope(config, RopeDefaults { theta: Some(150_000.0), ..RopeDefaults::default() })?;
    let attention =
        AttentionArgs { qkv_bias: true, output_bias: true, sinks: true, ..sizes.attention_args(Some(rope)) };
    let windows =
        Windows::from_config(config, sizes.num_hidden_layers, WindowPattern::AllButEvery(2), Some(128))?;
    let n_experts = config.n_experts()?.unwrap_or(128);
    // The softmax is over the top-k logits only.
    let router = Router::new(args.num_experts_per_tok, n_experts, true, Scoring::Softmax, config)?;
    let dims = ExpertDims { n_experts, hidden: sizes.hidden_size, intermediate: sizes.intermediate_size };
    let activation = Some(Activation::ClampedSilu { alpha: args.swiglu_alpha, limit: args.swiglu_limit });
    let expert_args = ExpertArgs { dims, bias: true, activation };
    // Renames the router: `mlp.gate` in other families.
    let fused = Fused::parts("mlp.router", &[("mlp.gate", n_experts as i32)]);
    let layers = weights.with_fused(&fused);
    let base = decoder(&layers, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs { window: windows.of_layer(layer_idx), ..attention.clone() };
        let gate = MoeGateArgs { bias: true, ..MoeGateArgs::default() };
        let block = TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?;
        let experts = weights.at("mlp.experts");
        let mixture = match Mixture::in_blocks(&experts, expert_args, router.clone())? {
            Some(published) => published,
            None => Mixture::stacked(&experts, MATRICES, expert_args, router.clone())?,
        };
        Ok(LayerParts::with_mixture(block, mixture))
    })?;
    Ok(Architecture { fused, ..base })
}
