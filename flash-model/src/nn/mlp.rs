//! The feed-forward network of a layer: up projection, gated in most models, and down projection.

use mlx_rs::macros::ModuleParameters;

use crate::ModelError;
use crate::compute::{Activation, Value};
use crate::nn::tiled::{TiledLinear, Tiles, gated, squared_relu};
use crate::nn::var_builder::VarBuilder;

/// Configuration of an MLP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MlpArgs {
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub bias: bool,
    /// Activation of the gate; `None` for an MLP without a gate, whose activation is `relu(x)²`.
    pub activation: Option<Activation>,
}

/// An MLP: `down(activation(gate(x)) · up(x))`, or without a gate `down(relu(up(x))²)`.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Mlp {
    activation: Option<Activation>,
    #[param]
    gate_proj: Option<TiledLinear>,
    #[param]
    up_proj: TiledLinear,
    #[param]
    down_proj: TiledLinear,
}

impl Mlp {
    pub(crate) fn new(args: MlpArgs, weights: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let MlpArgs { hidden_size, intermediate_size, bias, activation } = args;
        let linear = |name, input, output| weights.at(name).tiled_linear(input, output, bias);
        Ok(Self {
            activation,
            gate_proj: activation.map(|_| linear("gate_proj", hidden_size, intermediate_size)).transpose()?,
            up_proj: linear("up_proj", hidden_size, intermediate_size)?,
            down_proj: linear("down_proj", intermediate_size, hidden_size)?,
        })
    }

    /// Returns `residual + self(x)`.
    pub(crate) fn add(
        &self,
        residual: &Value,
        x: &Value,
        tiles: &mut dyn Tiles,
    ) -> Result<Value, ModelError> {
        self.down_proj.add(residual, &self.activated(x, tiles)?, tiles)
    }

    /// Returns `self(x)`.
    pub(crate) fn forward(&self, x: &Value, tiles: &mut dyn Tiles) -> Result<Value, ModelError> {
        self.down_proj.forward(&self.activated(x, tiles)?, tiles)
    }

    /// Returns the input of the down projection.
    fn activated(&self, x: &Value, tiles: &mut dyn Tiles) -> Result<Value, ModelError> {
        match self.activation.zip(self.gate_proj.as_ref()) {
            Some((activation, gate)) => gated(activation, gate, &self.up_proj, x, tiles),
            None => squared_relu(&self.up_proj, x, tiles),
        }
    }
}
