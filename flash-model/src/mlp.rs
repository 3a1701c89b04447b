//! What comes behind the attention in a layer: a projection up, gated in most models, and one down.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;

use crate::ModelError;
use crate::compute::Activation;
use crate::layers::{Linear, gated, squared_relu};
use crate::weights::Weights;

/// What there is to say of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MlpArgs {
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub bias: bool,
    pub activation: Activation,
}

/// `down(activation(gate(x)) · up(x))`. Its parameters are named as most checkpoints name them.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Mlp {
    activation: Activation,
    #[param]
    gate_proj: Linear,
    #[param]
    down_proj: Linear,
    #[param]
    up_proj: Linear,
}

impl Mlp {
    pub(crate) fn new(args: MlpArgs, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let MlpArgs { hidden_size, intermediate_size, bias, activation } = args;
        let linear = |name, input, output| weights.at(name).linear(input, output, bias);
        Ok(Self {
            activation,
            gate_proj: linear("gate_proj", hidden_size, intermediate_size)?,
            down_proj: linear("down_proj", intermediate_size, hidden_size)?,
            up_proj: linear("up_proj", hidden_size, intermediate_size)?,
        })
    }

    /// Adds what it makes of `x` to `residual`.
    pub(crate) fn add(&self, residual: &Array, x: &Array) -> Result<Array, Exception> {
        self.down_proj.add(residual, &self.gated(x)?)
    }

    /// What it makes of `x`.
    pub(crate) fn of(&self, x: &Array) -> Result<Array, Exception> {
        self.down_proj.of(&self.gated(x)?)
    }

    fn gated(&self, x: &Array) -> Result<Array, Exception> {
        gated(self.activation, &self.gate_proj, &self.up_proj, x)
    }
}

/// What there is to say of an MLP without a gate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainMlpArgs {
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub bias: bool,
}

/// `down(relu(up(x))²)`.
#[derive(Debug, ModuleParameters)]
pub(crate) struct PlainMlp {
    #[param]
    up_proj: Linear,
    #[param]
    down_proj: Linear,
}

impl PlainMlp {
    pub(crate) fn new(args: PlainMlpArgs, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let PlainMlpArgs { hidden_size, intermediate_size, bias } = args;
        Ok(Self {
            up_proj: weights.at("up_proj").linear(hidden_size, intermediate_size, bias)?,
            down_proj: weights.at("down_proj").linear(intermediate_size, hidden_size, bias)?,
        })
    }

    /// Adds what it makes of `x` to `residual`.
    pub(crate) fn add(&self, residual: &Array, x: &Array) -> Result<Array, Exception> {
        self.down_proj.add(residual, &squared_relu(&self.up_proj, x)?)
    }
}
