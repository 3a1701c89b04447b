//! What comes behind the attention in a layer: a gated projection up, and one down.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;

use crate::ModelError;
use crate::layers::{Linear, swiglu};
use crate::weights::Weights;

/// What there is to say of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MlpArgs {
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub bias: bool,
}

/// `down(silu(gate(x)) · up(x))`. Its parameters are named as most checkpoints name them.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Mlp {
    #[param]
    gate_proj: Linear,
    #[param]
    down_proj: Linear,
    #[param]
    up_proj: Linear,
}

impl Mlp {
    pub(crate) fn new(args: MlpArgs, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let MlpArgs { hidden_size, intermediate_size, bias } = args;
        let linear = |name, input, output| weights.at(name).linear(input, output, bias);
        Ok(Self {
            gate_proj: linear("gate_proj", hidden_size, intermediate_size)?,
            down_proj: linear("down_proj", intermediate_size, hidden_size)?,
            up_proj: linear("up_proj", hidden_size, intermediate_size)?,
        })
    }

    /// Adds what it makes of `x` to `residual`.
    pub(crate) fn add(&self, residual: &Array, x: &Array) -> Result<Array, Exception> {
        self.down_proj.add(residual, &swiglu(&self.gate_proj, &self.up_proj, x)?)
    }
}
