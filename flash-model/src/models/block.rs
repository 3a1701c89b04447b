//! The layer of most decoders: attention and an MLP, each behind a norm.

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;

use super::{LayerOutput, Sizes};
use crate::ModelError;
use crate::attention::{Attention, AttentionArgs, LayerInput};
use crate::experts::{ExpertDims, Gate, GateArgs};
use crate::layers::RmsNorm;
use crate::mlp::{Mlp, MlpArgs};
use crate::weights::Weights;

#[derive(Debug, ModuleParameters)]
pub(super) struct TransformerBlock {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: Mlp,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl TransformerBlock {
    pub(super) fn new(
        sizes: &Sizes,
        attention: &AttentionArgs,
        mlp: MlpArgs,
        weights: &Weights<'_>,
    ) -> Result<Self, ModelError> {
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, sizes.norm());
        Ok(Self {
            self_attn: Attention::new(attention, &weights.at("self_attn"))?,
            mlp: Mlp::new(mlp, &weights.at("mlp"))?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        })
    }
}

impl Module<LayerInput<'_>> for TransformerBlock {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, LayerInput { x, kv, position }: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let normed = self.input_layernorm.forward(x)?;
        let h = self.self_attn.add(x, LayerInput { x: &normed, kv, position })?;
        Ok(self.mlp.add(&h, &self.post_attention_layernorm.forward(&h)?)?.into())
    }

    fn training_mode(&mut self, _: bool) {}
}

/// The same with a mixture in place of the MLP.
#[derive(Debug, ModuleParameters)]
pub(super) struct SparseBlock {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: Gate,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl SparseBlock {
    pub(super) fn new(
        sizes: &Sizes,
        attention: &AttentionArgs,
        dims: ExpertDims,
        gate: GateArgs,
        weights: &Weights<'_>,
    ) -> Result<Self, ModelError> {
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, sizes.norm());
        Ok(Self {
            self_attn: Attention::new(attention, &weights.at("self_attn"))?,
            mlp: Gate::new(&weights.at("mlp"), dims, gate)?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        })
    }
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

/// What a layer with a mixture does: attends, and says what its experts get.
///
/// `norms`: those before the attention and before the router.
pub(super) fn attend_and_route(
    self_attn: &mut Attention,
    gate: &Gate,
    norms: [&mut RmsNorm; 2],
    LayerInput { x, kv, position }: LayerInput<'_>,
) -> Result<LayerOutput, Exception> {
    let [input_layernorm, post_attention_layernorm] = norms;
    let normed = input_layernorm.forward(x)?;
    let hidden = self_attn.add(x, LayerInput { x: &normed, kv, position })?;
    let normed = post_attention_layernorm.forward(&hidden)?;
    gate.send(hidden, normed)
}
