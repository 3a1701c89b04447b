//! Qwen3 with experts, as `mlx_lm/models/qwen3_moe.py` has it.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::{Architecture, Layer, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::attention::AttentionArgs;
use crate::compute::Activation;
use crate::experts::{ExpertArgs, ExpertDims, GateArgs, Mixture, Names, Router, Scoring};
use crate::rope::Rope;
use crate::weights::Weights;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    num_experts: usize,
    num_experts_per_tok: usize,
    /// Experts are in every so many layers.
    #[serde(default = "default_decoder_sparse_step")]
    decoder_sparse_step: usize,
    /// Layers without experts.
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
    moe_intermediate_size: i32,
    norm_topk_prob: bool,
    rope_theta: f32,
    tie_word_embeddings: bool,
}

fn default_decoder_sparse_step() -> usize {
    1
}

impl ModelArgs {
    fn has_experts(&self, layer_idx: usize) -> bool {
        !self.mlp_only_layers.contains(&layer_idx)
            && self.num_experts > 0
            && (layer_idx + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::of(config)?, config.args::<ModelArgs>()?);
    // As in mlx-lm, positions are never scaled.
    let rope = Rope::new(sizes.rope(args.rope_theta, None), config)?;
    let (n_experts, hidden) = (args.num_experts, sizes.hidden_size);
    let intermediate = config.length("moe_intermediate_size", args.moe_intermediate_size)?;
    let router =
        Router::new(args.num_experts_per_tok, n_experts, args.norm_topk_prob, Scoring::Softmax, config)?;
    let dims = ExpertDims { n_experts, hidden, intermediate };
    let experts = ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) };
    decoder(weights, &sizes, args.tie_word_embeddings, |layer_idx, weights| {
        let attention =
            AttentionArgs { head_norm: Some(sizes.norm()), ..sizes.attention(Some(rope.clone())) };
        if !args.has_experts(layer_idx) {
            let layer: Box<dyn Layer> =
                Box::new(TransformerBlock::new(&sizes, &attention, sizes.mlp(), weights)?);
            return Ok(layer.into());
        }
        let gate = GateArgs::default();
        let layer: Box<dyn Layer> =
            Box::new(TransformerBlock::sparse(&sizes, &attention, dims, gate, weights)?);
        let mlp = weights.at("mlp");
        Ok(LayerParts::mixed(layer, Mixture::new(&mlp, Names::USUAL, experts, router.clone())?))
    })
}
