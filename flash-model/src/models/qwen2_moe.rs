//! Qwen2 with experts, as `mlx_lm/models/qwen2_moe.py` has it.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::{Architecture, Layer, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::attention::AttentionArgs;
use crate::compute::Activation;
use crate::experts::{ExpertArgs, ExpertDims, GateArgs, Mixture, Names, Router, Scoring};
use crate::mlp::MlpArgs;
use crate::rope::{Rope, RopeArgs};
use crate::weights::Weights;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: i32,
    shared_expert_intermediate_size: i32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    #[serde(default)]
    rope_traditional: bool,
}

fn default_rope_theta() -> f32 {
    1_000_000.0
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    // Heads share the hidden size, and every layer has experts, whatever else the configuration says.
    let sizes = Sizes::with(config, |sizes| sizes.head_dim = None)?;
    let args: ModelArgs = config.args()?;
    // As in mlx-lm, positions are never scaled.
    let rope = RopeArgs { traditional: args.rope_traditional, ..sizes.rope(args.rope_theta, None) };
    let attention = AttentionArgs { qkv_bias: true, ..sizes.attention(Some(Rope::new(rope, config)?)) };
    let (n_experts, hidden) = (args.num_experts, sizes.hidden_size);
    let router = Router::new(args.num_experts_per_tok, n_experts, false, Scoring::Softmax, config)?;
    let intermediate = config.length("moe_intermediate_size", args.moe_intermediate_size)?;
    let dims = ExpertDims { n_experts, hidden, intermediate };
    let experts = ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) };
    let field = "shared_expert_intermediate_size";
    let intermediate_size = config.length(field, args.shared_expert_intermediate_size)?;
    let shared = MlpArgs { intermediate_size, ..sizes.mlp() };
    let gate = GateArgs { shared_expert: Some(shared), ..GateArgs::default() };
    let usual = decoder(weights, &sizes, false, |_, weights| {
        let layer: Box<dyn Layer> =
            Box::new(TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?);
        Ok(LayerParts::mixed(layer, Mixture::new(&weights.at("mlp"), Names::USUAL, experts, router.clone())?))
    })?;
    Ok(Architecture { intermediate_size, ..usual })
}
