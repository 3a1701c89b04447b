//! Qwen3 with experts, as `mlx_lm/models/qwen3_moe.py` has it.

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;
use serde::Deserialize;

use super::block::{TransformerBlock, attend_and_route};
use super::{Architecture, Layer, LayerOutput, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::attention::{Attention, AttentionArgs, LayerInput};
use crate::experts::{ExpertDims, Gate, GateArgs, Mixture, Names, Router, Scoring};
use crate::layers::RmsNorm;
use crate::rope::Rope;
use crate::weights::Weights;

const NAMES: Names =
    Names { stacked: "switch_mlp", each: "experts", each_matrices: ["gate_proj", "up_proj", "down_proj"] };

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

#[derive(Debug, ModuleParameters)]
struct SparseBlock {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: Gate,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl Module<LayerInput<'_>> for SparseBlock {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, input: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let norms = [&mut self.input_layernorm, &mut self.post_attention_layernorm];
        attend_and_route(&mut self.self_attn, &self.mlp, norms, input)
    }

    fn training_mode(&mut self, _: bool) {}
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::of(config)?, config.args::<ModelArgs>()?);
    // As in mlx-lm, positions are never scaled.
    let rope = Rope::new(sizes.rope(args.rope_theta, None), config)?;
    let (n_experts, hidden) = (args.num_experts, sizes.hidden_size);
    let router =
        Router::new(args.num_experts_per_tok, n_experts, args.norm_topk_prob, Scoring::Softmax, config)?;
    let dims = ExpertDims { n_experts, hidden, intermediate: args.moe_intermediate_size };
    decoder(weights, &sizes, args.tie_word_embeddings, |layer_idx, weights| {
        let attention =
            AttentionArgs { head_norm: Some(sizes.norm()), ..sizes.attention(Some(rope.clone())) };
        if !args.has_experts(layer_idx) {
            let layer: Box<dyn Layer> =
                Box::new(TransformerBlock::new(&sizes, &attention, sizes.mlp(), weights)?);
            return Ok(layer.into());
        }
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, sizes.norm());
        let mlp = weights.at("mlp");
        let layer: Box<dyn Layer> = Box::new(SparseBlock {
            self_attn: Attention::new(&attention, &weights.at("self_attn"))?,
            mlp: Gate::new(&mlp, dims, GateArgs::default())?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        });
        Ok(LayerParts { layer, mixture: Some(Mixture::new(&mlp, NAMES, dims, router.clone())?) })
    })
}
