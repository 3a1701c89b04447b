//! The transformer block of most decoders: pre-norm attention, then a pre-norm MLP or mixture of experts.

use std::fmt::Debug;

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{Module, ModuleParameters};

use super::Sizes;
use crate::ModelError;
use crate::compute::{NormArgs, Value};
use crate::nn::attention::{Attention, AttentionArgs, LatentAttention};
use crate::nn::layer::{Layer, LayerInput, LayerOutput, Routed};
use crate::nn::layers::RmsNorm;
use crate::nn::mlp::{Mlp, MlpArgs};
use crate::nn::moe_gate::{MoeGate, MoeGateArgs};
use crate::nn::tiled::Tiles;
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::ExpertDims;

/// The attention of a transformer block.
pub(super) trait SelfAttention: ModuleParameters + Debug {
    /// Returns `residual + self(input)`.
    fn add(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<Value, ModelError>;

    /// Returns the length of the sliding window; `None` for full attention.
    fn window(&self) -> Option<usize> {
        None
    }
}

/// The feed-forward part of a transformer block: an MLP, or the router of a mixture.
pub(super) trait FeedForward: ModuleParameters + Debug {
    /// Returns `hidden + self(x)`; of a mixture, without the routed experts, whose input is returned beside it.
    fn add(&self, hidden: Value, x: &Value, tiles: &mut dyn Tiles) -> Result<LayerOutput, ModelError>;

    /// Predicts the routing of `x`; `None` for an MLP.
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
        weights: &VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let attention = Attention::new(attention, &weights.at("self_attn"))?;
        Self::from_parts(sizes, sizes.norm_args(), attention, Mlp::new(mlp, &weights.at("mlp"))?, weights)
    }
}

impl TransformerBlock<Attention, MoeGate> {
    /// A block with a mixture of experts in place of the MLP.
    pub(super) fn sparse(
        sizes: &Sizes,
        attention: &AttentionArgs,
        dims: ExpertDims,
        gate: MoeGateArgs,
        weights: &VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let attention = Attention::new(attention, &weights.at("self_attn"))?;
        Self::from_parts(
            sizes,
            sizes.norm_args(),
            attention,
            MoeGate::new(&weights.at("mlp"), dims.hidden, dims.n_experts, gate)?,
            weights,
        )
    }
}

impl<A: SelfAttention, F: FeedForward> TransformerBlock<A, F> {
    /// A block of these two parts, with a norm before each.
    pub(super) fn from_parts(
        sizes: &Sizes,
        norm: NormArgs,
        self_attn: A,
        mlp: F,
        weights: &VarBuilder<'_>,
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

impl<A: SelfAttention, F: FeedForward> Module<LayerInput<'_>> for TransformerBlock<A, F> {
    type Output = LayerOutput;
    type Error = ModelError;

    fn forward(&mut self, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        let LayerInput { x, segments, tiles } = input;
        let normed = self.input_layernorm.forward(x)?;
        let h = self.self_attn.add(x, LayerInput { x: &normed, segments, tiles: &mut *tiles })?;
        let normed = self.post_attention_layernorm.forward(&h)?;
        self.mlp.add(h, &normed, tiles)
    }

    fn training_mode(&mut self, _: bool) {}
}

impl<A: SelfAttention, F: FeedForward> Layer for TransformerBlock<A, F> {
    fn predict_routing(&mut self, hidden: &Value) -> Result<Option<Routed>, Exception> {
        self.mlp.predict_routing(self.post_attention_layernorm.forward(hidden)?)
    }

    fn window(&self) -> Option<usize> {
        self.self_attn.window()
    }
}

impl SelfAttention for Attention {
    fn add(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<Value, ModelError> {
        Self::add(self, residual, input)
    }

    fn window(&self) -> Option<usize> {
        Self::window(self)
    }
}

impl SelfAttention for LatentAttention {
    fn add(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<Value, ModelError> {
        Self::add(self, residual, input)
    }
}

impl FeedForward for Mlp {
    fn add(&self, hidden: Value, x: &Value, tiles: &mut dyn Tiles) -> Result<LayerOutput, ModelError> {
        Ok(self.add(&hidden, x, tiles)?.into())
    }
}

impl FeedForward for MoeGate {
    fn add(&self, hidden: Value, x: &Value, tiles: &mut dyn Tiles) -> Result<LayerOutput, ModelError> {
        self.forward(hidden, x, tiles)
    }

    fn predict_routing(&self, x: Value) -> Result<Option<Routed>, Exception> {
        self.route(&x).map(Some)
    }
}
