//! The mixer of Mamba-2: what stands in the place of attention in a layer that keeps a state.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::ModelError;
use crate::compute::{Backend, Value};
use crate::convolution::Convolution;
use crate::kv::{LayerKv, StateShape};
use crate::layers::{Linear, NormArgs, RmsNorm};
use crate::weights::Weights;

/// The lengths of a mixer, and what else its numbers follow from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mamba2Args {
    pub hidden_size: i32,
    pub n_heads: i32,
    pub head_dim: i32,
    /// Each has a `B` and a `C` for as many heads as the others, and is normalised by itself.
    pub n_groups: i32,
    /// Columns of a head's state.
    pub state_dim: i32,
    /// Tokens that the convolution sees.
    pub conv_kernel: i32,
    pub conv_bias: bool,
    /// Whether the projections have biases.
    pub bias: bool,
    /// What the mean of the squares is increased by.
    pub eps: f32,
    /// The shortest and the longest step.
    pub step_limits: [f32; 2],
}

impl Mamba2Args {
    /// Numbers of a token between the projections.
    pub(crate) fn inner(&self) -> i32 {
        self.n_heads * self.head_dim
    }

    /// Channels of the convolution: the inputs of the heads, then `B` and `C` of each group.
    pub(crate) fn channels(&self) -> i32 {
        self.inner() + 2 * self.n_groups * self.state_dim
    }

    /// Numbers of a token as it is projected: its gate, the channels, a step for each head.
    pub(crate) fn projected(&self) -> i32 {
        self.inner() + self.channels() + self.n_heads
    }

    /// What the mixer keeps of the tokens before.
    pub(crate) fn state(&self) -> StateShape {
        let [kernel, channels, heads, head_dim, state_dim] =
            [self.conv_kernel, self.channels(), self.n_heads, self.head_dim, self.state_dim]
                .map(|extent| extent as usize);
        StateShape { conv: [kernel - 1, channels], heads: [heads, head_dim, state_dim] }
    }
}

/// A mixer with its projections. Its parameters are named as checkpoints name them.
#[derive(Debug, ModuleParameters)]
#[expect(non_snake_case, reason = "checkpoints name parameters so")]
pub(crate) struct Mamba2 {
    pub args: Mamba2Args,
    backend: Backend,
    #[param]
    in_proj: Linear,
    #[param]
    pub conv1d: Convolution,
    /// `[n_heads]`, as the next two.
    #[param]
    pub dt_bias: Param<Array>,
    #[param]
    pub A_log: Param<Array>,
    #[param]
    pub D: Param<Array>,
    #[param]
    pub norm: RmsNorm,
    #[param]
    out_proj: Linear,
}

impl Mamba2 {
    pub(crate) fn new(args: Mamba2Args, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let Mamba2Args { hidden_size, n_heads, conv_kernel, conv_bias, bias, eps, .. } = args;
        let norm = NormArgs { eps, weight_offset: 0.0 };
        Ok(Self {
            args,
            backend: weights.backend().clone(),
            in_proj: weights.at("in_proj").linear(hidden_size, args.projected(), bias)?,
            conv1d: Convolution::new(args.channels(), conv_kernel, conv_bias, &weights.at("conv1d"))?,
            dt_bias: Param::new(weights.at("dt_bias").vector(n_heads)?),
            A_log: Param::new(weights.at("A_log").vector(n_heads)?),
            D: Param::new(weights.at("D").vector(n_heads)?),
            norm: weights.at("norm").rms_norm(args.inner(), norm)?,
            out_proj: weights.at("out_proj").linear(args.inner(), hidden_size, bias)?,
        })
    }

    /// Adds to `residual` what it makes of `x`, behind the tokens of which `kv` has the state.
    pub(crate) fn add(&self, residual: &Value, x: &Value, kv: &mut LayerKv) -> Result<Value, Exception> {
        let mixed = self.backend.mamba2(self, &self.in_proj.of(x)?, kv)?;
        self.out_proj.add(residual, &mixed)
    }
}
