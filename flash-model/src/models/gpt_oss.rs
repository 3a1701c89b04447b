//! The open-weight models of `OpenAI`, as `mlx_lm/models/gpt_oss.py` has them.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::layer_types::LayerTypes;
use super::{Architecture, Layer, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::attention::AttentionArgs;
use crate::compute::Activation;
use crate::experts::{ExpertArgs, ExpertDims, GateArgs, MATRICES, Mixture, Router, Scoring};
use crate::fused::Fused;
use crate::rope::{Rope, RopeScaling};
use crate::weights::Weights;

/// How steeply the gate of an expert opens: no configuration says.
const ALPHA: f32 = 1.702;

#[derive(Debug, Deserialize)]
#[serde(default)]
struct ModelArgs {
    num_local_experts: usize,
    num_experts_per_tok: usize,
    sliding_window: usize,
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    layer_types: Option<LayerTypes>,
    /// The greatest number that passes the gate of an expert.
    swiglu_limit: f32,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            num_local_experts: 128,
            num_experts_per_tok: 4,
            sliding_window: 128,
            rope_theta: 150_000.0,
            rope_scaling: None,
            layer_types: None,
            swiglu_limit: 7.0,
        }
    }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let args: ModelArgs = config.args()?;
    let sizes = Sizes::with(config, |sizes| {
        sizes.num_key_value_heads.get_or_insert(8);
        sizes.head_dim.get_or_insert(64);
    })?;
    config.positive("swiglu_limit", args.swiglu_limit)?;
    let rope = Rope::new(sizes.rope(args.rope_theta, args.rope_scaling.as_ref()), config)?;
    let attention =
        AttentionArgs { qkv_bias: true, output_bias: true, sinks: true, ..sizes.attention(Some(rope)) };
    let kinds = args.layer_types.unwrap_or_else(|| LayerTypes::alternating(sizes.num_hidden_layers));
    let n_experts = args.num_local_experts;
    // The softmax over the chosen only.
    let router = Router::new(args.num_experts_per_tok, n_experts, true, Scoring::Softmax, config)?;
    let dims = ExpertDims { n_experts, hidden: sizes.hidden_size, intermediate: sizes.intermediate_size };
    let activation = Some(Activation::ClampedSilu { alpha: ALPHA, limit: args.swiglu_limit });
    let expert_args = ExpertArgs { dims, bias: true, activation };
    // All of its rows: what other families call gate is the router here.
    let fused = Fused::parts("mlp.router", &[("mlp.gate", n_experts as i32)]);
    let layers = weights.with_fused(&fused);
    let usual = decoder(&layers, &sizes, false, |layer_idx, weights| {
        let window = kinds.window(layer_idx, Some(args.sliding_window), config)?;
        let attention = AttentionArgs { window, ..attention.clone() };
        let gate = GateArgs { bias: true, ..GateArgs::default() };
        let layer: Box<dyn Layer> =
            Box::new(TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?);
        let experts = weights.at("mlp.experts");
        let mixture = match Mixture::in_blocks(&experts, expert_args, router.clone())? {
            Some(published) => published,
            None => Mixture::stacked(&experts, MATRICES, expert_args, router.clone())?,
        };
        Ok(LayerParts::mixed(layer, mixture))
    })?;
    Ok(Architecture { fused, ..usual })
}
