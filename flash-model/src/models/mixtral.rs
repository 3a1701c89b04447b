//! Mixtral, as `mlx_lm/models/mixtral.py` has it.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;
use serde::Deserialize;

use super::block::attend_and_route;
use super::{Architecture, Layer, LayerOutput, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::attention::{Attention, LayerInput};
use crate::compute::Activation;
use crate::experts::{
    ExpertArgs, ExpertDims, Gate, GateArgs, MATRICES, Mixture, Names, Routed, Router, Scoring,
};
use crate::layers::RmsNorm;
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

#[derive(Debug, ModuleParameters)]
struct MixtralBlock {
    #[param]
    self_attn: Attention,
    #[param]
    block_sparse_moe: Gate,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl Module<LayerInput<'_>> for MixtralBlock {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, input: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let norms = [&mut self.input_layernorm, &mut self.post_attention_layernorm];
        attend_and_route(&mut self.self_attn, &self.block_sparse_moe, norms, input)
    }

    fn training_mode(&mut self, _: bool) {}
}

impl Layer for MixtralBlock {
    fn foresee(&mut self, hidden: &Array) -> Result<Option<Routed>, Exception> {
        self.block_sparse_moe.route(self.post_attention_layernorm.forward(hidden)?).map(Some)
    }
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
    decoder(weights, &sizes, args.tie_word_embeddings, |_, weights| {
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, sizes.norm());
        let moe = weights.at("block_sparse_moe");
        let layer: Box<dyn Layer> = Box::new(MixtralBlock {
            self_attn: Attention::new(&sizes.attention(Some(rope.clone())), &weights.at("self_attn"))?,
            block_sparse_moe: Gate::new(&moe, dims, GateArgs::default())?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        });
        Ok(LayerParts::mixed(layer, Mixture::new(&moe, NAMES, experts, router.clone())?))
    })
}
