//! The layer of most decoders: attention and an MLP, or a mixture of experts, each behind a norm.

use std::fmt::Debug;

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{Module, ModuleParameters};

use super::Sizes;
use crate::ModelError;
use crate::compute::NormArgs;
use crate::compute::Value;
use crate::nn::attention::{Attention, AttentionArgs, LatentAttention};
use crate::nn::gate::{Gate, GateArgs};
use crate::nn::layer::{Layer, LayerInput, LayerOutput, Routed};
use crate::nn::layers::RmsNorm;
use crate::nn::mlp::{Mlp, MlpArgs};
use crate::nn::weights::Weights;
use crate::stream::experts::ExpertDims;

/// What comes first in a layer.
pub(super) trait Attend: ModuleParameters + Debug {
    /// Adds what it makes of the input to `residual`.
    fn add(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<Value, Exception>;

    /// How many tokens a token sees, if not all before it.
    fn window(&self) -> Option<usize> {
        None
    }
}

/// What comes behind it.
pub(super) trait Feed: ModuleParameters + Debug {
    /// Adds what it makes of `x` to `hidden`, or says what is to be added.
    fn add(&self, hidden: Value, x: Value) -> Result<LayerOutput, Exception>;

    /// What it would say is to be added to `x`, if it has that said.
    fn predict_routing(&self, _x: Value) -> Result<Option<Routed>, Exception> {
        Ok(None)
    }
}

#[derive(Debug, ModuleParameters)]
pub(super) struct TransformerBlock<A: ModuleParameters = Attention, F: ModuleParameters = Mlp> {
    #[param]
    self_attn: A,
    #[param]
    mlp: F,
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
        let attention = Attention::new(attention, &weights.at("self_attn"))?;
        Self::with(sizes, sizes.norm(), attention, Mlp::new(mlp, &weights.at("mlp"))?, weights)
    }
}

impl TransformerBlock<Attention, Gate> {
    /// With a mixture in place of the MLP.
    pub(super) fn sparse(
        sizes: &Sizes,
        attention: &AttentionArgs,
        dims: ExpertDims,
        gate: GateArgs,
        weights: &Weights<'_>,
    ) -> Result<Self, ModelError> {
        let attention = Attention::new(attention, &weights.at("self_attn"))?;
        Self::with(
            sizes,
            sizes.norm(),
            attention,
            Gate::new(&weights.at("mlp"), dims.hidden, dims.n_experts, gate)?,
            weights,
        )
    }
}

impl<A: Attend, F: Feed> TransformerBlock<A, F> {
    /// Of these two, with a norm before each.
    pub(super) fn with(
        sizes: &Sizes,
        norm: NormArgs,
        self_attn: A,
        mlp: F,
        weights: &Weights<'_>,
    ) -> Result<Self, ModelError> {
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, norm);
        Ok(Self {
            self_attn,
            mlp,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        })
    }
}

impl<A: Attend, F: Feed> Module<LayerInput<'_>> for TransformerBlock<A, F> {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, LayerInput { x, kv, position }: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let normed = self.input_layernorm.of(x)?;
        let h = self.self_attn.add(x, LayerInput { x: &normed, kv, position })?;
        let normed = self.post_attention_layernorm.of(&h)?;
        self.mlp.add(h, normed)
    }

    fn training_mode(&mut self, _: bool) {}
}

impl<A: Attend, F: Feed> Layer for TransformerBlock<A, F> {
    fn predict_routing(&mut self, hidden: &Value) -> Result<Option<Routed>, Exception> {
        self.mlp.predict_routing(self.post_attention_layernorm.of(hidden)?)
    }

    fn window(&self) -> Option<usize> {
        self.self_attn.window()
    }
}

impl Attend for Attention {
    fn add(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<Value, Exception> {
        Self::add(self, residual, input)
    }

    fn window(&self) -> Option<usize> {
        Self::window(self)
    }
}

impl Attend for LatentAttention {
    fn add(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<Value, Exception> {
        Self::add(self, residual, input)
    }
}

impl Feed for Mlp {
    fn add(&self, hidden: Value, x: Value) -> Result<LayerOutput, Exception> {
        Ok(self.add(&hidden, &x)?.into())
    }
}

impl Feed for Gate {
    fn add(&self, hidden: Value, x: Value) -> Result<LayerOutput, Exception> {
        self.send(hidden, &x)
    }

    fn predict_routing(&self, x: Value) -> Result<Option<Routed>, Exception> {
        self.route(&x).map(Some)
    }
}
