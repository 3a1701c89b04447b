//! The gated delta net of Qwen3.5: what stands in the place of attention in a layer that keeps a state.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::ModelError;
use crate::compute::Backend;
use crate::convolution::Convolution;
use crate::kv::{LayerKv, StateShape};
use crate::layers::{Linear, NormArgs, RmsNorm, project};
use crate::weights::Weights;

/// The lengths of a net.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedDeltaArgs {
    pub hidden_size: i32,
    /// Heads of queries and keys, each shared by as many value heads as the others.
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Tokens that the convolution sees.
    pub conv_kernel: i32,
    /// What the mean of the squares is increased by.
    pub eps: f32,
}

impl GatedDeltaArgs {
    /// Queries of a token, and keys.
    pub(crate) fn keys(&self) -> i32 {
        self.key_heads * self.key_dim
    }

    /// Values of a token.
    pub(crate) fn values(&self) -> i32 {
        self.value_heads * self.value_dim
    }

    /// Channels of the convolution: queries, keys, values.
    pub(crate) fn channels(&self) -> i32 {
        2 * self.keys() + self.values()
    }

    /// What the net keeps of the tokens before.
    pub(crate) fn state(&self) -> StateShape {
        let [kernel, channels, heads, rows, columns] =
            [self.conv_kernel, self.channels(), self.value_heads, self.value_dim, self.key_dim]
                .map(|extent| extent as usize);
        StateShape { conv: [kernel - 1, channels], heads: [heads, rows, columns] }
    }
}

/// Tokens as a net projects them.
#[derive(Debug)]
pub(crate) struct GatedDeltaInput {
    /// `[1, n, channels]`.
    pub qkv: Array,
    /// `[1, n, values]`.
    pub gate: Array,
    /// How much is corrected, before the sigmoid: `[1, n, value_heads]`.
    pub beta: Array,
    /// The steps, before what is added to them: `[1, n, value_heads]`.
    pub step: Array,
}

/// A net with its projections. Its parameters are named as checkpoints name them.
#[derive(Debug, ModuleParameters)]
#[expect(non_snake_case, reason = "checkpoints name parameters so")]
pub(crate) struct GatedDelta {
    pub args: GatedDeltaArgs,
    backend: Backend,
    #[param]
    in_proj_qkv: Linear,
    #[param]
    in_proj_z: Linear,
    #[param]
    in_proj_b: Linear,
    #[param]
    in_proj_a: Linear,
    #[param]
    pub conv1d: Convolution,
    /// `[value_heads]`, as the next.
    #[param]
    pub dt_bias: Param<Array>,
    #[param]
    pub A_log: Param<Array>,
    /// Of each head.
    #[param]
    pub norm: RmsNorm,
    #[param]
    out_proj: Linear,
}

impl GatedDelta {
    pub(crate) fn new(args: GatedDeltaArgs, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let GatedDeltaArgs { hidden_size, value_heads, value_dim, conv_kernel, eps, .. } = args;
        let projection = |name, output| weights.at(name).linear(hidden_size, output, false);
        let norm = NormArgs { eps, weight_offset: 0.0 };
        Ok(Self {
            args,
            backend: weights.backend().clone(),
            in_proj_qkv: projection("in_proj_qkv", args.channels())?,
            in_proj_z: projection("in_proj_z", args.values())?,
            in_proj_b: projection("in_proj_b", value_heads)?,
            in_proj_a: projection("in_proj_a", value_heads)?,
            conv1d: Convolution::new(args.channels(), conv_kernel, false, &weights.at("conv1d"))?,
            dt_bias: Param::new(weights.at("dt_bias").vector(value_heads)?),
            A_log: Param::new(weights.at("A_log").vector(value_heads)?),
            norm: weights.at("norm").rms_norm(value_dim, norm)?,
            out_proj: weights.at("out_proj").linear(args.values(), hidden_size, false)?,
        })
    }

    /// Adds to `residual` what it makes of `x`, behind the tokens of which `kv` has the state.
    pub(crate) fn add(&self, residual: &Array, x: &Array, kv: &mut LayerKv) -> Result<Array, Exception> {
        let projections = [&self.in_proj_qkv, &self.in_proj_z, &self.in_proj_b, &self.in_proj_a];
        let [qkv, gate, beta, step] = project(projections, x)?;
        let input = GatedDeltaInput { qkv, gate, beta, step };
        self.out_proj.add(residual, &self.backend.gated_delta(self, &input, kv)?)
    }
}
