//! The Mamba-2 mixer: a state-space model with a recurrent state.

use mlx_rs::Array;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::ModelError;
use crate::compute::{Backend, Mamba2Dims, Mamba2Weights, NormArgs, Value};
use crate::nn::convolution::Convolution;
use crate::nn::layer::LayerInput;
use crate::nn::layers::RmsNorm;
use crate::nn::tiled::TiledLinear;
use crate::nn::var_builder::VarBuilder;

/// Configuration of a Mamba-2 mixer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mamba2Args {
    pub hidden_size: i32,
    pub dims: Mamba2Dims,
    pub conv_bias: bool,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// A Mamba-2 mixer with its projections.
#[derive(Debug, ModuleParameters)]
#[expect(non_snake_case, reason = "checkpoints name parameters so")]
pub(crate) struct Mamba2 {
    dims: Mamba2Dims,
    backend: Backend,
    #[param]
    in_proj: TiledLinear,
    #[param]
    conv1d: Convolution,
    /// `[n_heads]`.
    #[param]
    dt_bias: Param<Array>,
    /// `[n_heads]`.
    #[param]
    A_log: Param<Array>,
    /// `[n_heads]`.
    #[param]
    D: Param<Array>,
    #[param]
    norm: RmsNorm,
    #[param]
    out_proj: TiledLinear,
}

impl Mamba2 {
    pub(crate) fn new(args: Mamba2Args, weights: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let Mamba2Args { hidden_size, dims, conv_bias, bias } = args;
        let Mamba2Dims { n_heads, conv_kernel, eps, .. } = dims;
        let norm = NormArgs { eps, weight_offset: 0.0 };
        Ok(Self {
            dims,
            backend: weights.backend().clone(),
            in_proj: weights.at("in_proj").tiled_linear(hidden_size, dims.projected(), bias)?,
            conv1d: Convolution::new(dims.channels(), conv_kernel, conv_bias, &weights.at("conv1d"))?,
            dt_bias: Param::new(weights.at("dt_bias").vector(n_heads)?),
            A_log: Param::new(weights.at("A_log").vector(n_heads)?),
            D: Param::new(weights.at("D").vector(n_heads)?),
            norm: weights.at("norm").rms_norm(dims.inner(), norm)?,
            out_proj: weights.at("out_proj").tiled_linear(dims.inner(), hidden_size, bias)?,
        })
    }

    /// Returns `residual + self(input)`, and advances the recurrent state.
    pub(crate) fn add(&self, residual: &Value, input: LayerInput<'_>) -> Result<Value, ModelError> {
        let LayerInput { x, mut segments, tiles } = input;
        let mixer = Mamba2Weights {
            dims: self.dims,
            conv: self.conv1d.weights(),
            dt_bias: &self.dt_bias,
            a_log: &self.A_log,
            d: &self.D,
            norm: &self.norm.weight,
        };
        let mixed = self.backend.mamba2(mixer, &self.in_proj.forward(x, tiles)?, &mut segments)?;
        self.out_proj.add(residual, &mixed, tiles)
    }
}
