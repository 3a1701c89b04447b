//! Arguments of recurrent mixers, between their projections: the gated delta net and Mamba-2.

use mlx_rs::Array;

use super::Value;
use crate::kv::StateShape;

/// The short depthwise causal convolution before a recurrence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Convolution<'a> {
    /// `[channels, kernel, 1]` or `[channels, 1, kernel]`, which have the same memory layout.
    pub weight: &'a Array,
    /// `[channels]`.
    pub bias: Option<&'a Array>,
}

/// Sizes of a gated delta net.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedDeltaDims {
    /// Heads of queries and keys, each shared by `value_heads / key_heads` value heads.
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Kernel size of the convolution, in tokens.
    pub conv_kernel: i32,
    /// Epsilon of each head's RMSNorm.
    pub eps: f32,
}

impl GatedDeltaDims {
    /// Returns the number of key elements per token, which is also that of queries.
    pub(crate) fn keys(&self) -> i32 {
        self.key_heads * self.key_dim
    }

    /// Returns the number of value elements per token.
    pub(crate) fn values(&self) -> i32 {
        self.value_heads * self.value_dim
    }

    /// Returns the channels of the convolution: queries, keys, values.
    pub(crate) fn channels(&self) -> i32 {
        2 * self.keys() + self.values()
    }

    /// Returns the shape of the recurrent state.
    pub(crate) fn state(&self) -> StateShape {
        let heads = [self.value_heads, self.value_dim, self.key_dim];
        let input_len = self.channels() + self.values() + 2 * self.value_heads;
        StateShape::new(self.conv_kernel, self.channels(), heads, input_len)
    }
}

/// A gated delta net without its projections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedDeltaWeights<'a> {
    pub dims: GatedDeltaDims,
    pub conv: Convolution<'a>,
    /// `[value_heads]`.
    pub dt_bias: &'a Array,
    /// `[value_heads]`.
    pub a_log: &'a Array,
    /// Weight of each head's norm, `[value_dim]`.
    pub norm: &'a Array,
}

/// Projections of the new tokens for a gated delta net.
#[derive(Debug)]
pub(crate) struct GatedDeltaInput {
    /// `[1, n, channels]`.
    pub qkv: Value,
    /// `[1, n, values]`.
    pub gate: Value,
    /// Learning rates of the delta rule before the sigmoid, `[1, n, value_heads]`.
    pub beta: Value,
    /// Steps before `dt_bias` is added, `[1, n, value_heads]`.
    pub step: Value,
}

/// Sizes of a Mamba-2 mixer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mamba2Dims {
    pub n_heads: i32,
    pub head_dim: i32,
    /// Groups of `n_heads / n_groups` heads. Heads of a group share `B` and `C`, and are normalized together.
    pub n_groups: i32,
    /// Columns of a head's state.
    pub state_dim: i32,
    /// Kernel size of the convolution, in tokens.
    pub conv_kernel: i32,
    /// Epsilon of each group's RMSNorm.
    pub eps: f32,
    /// Minimum and maximum of the steps.
    pub dt_limits: [f32; 2],
}

impl Mamba2Dims {
    /// Returns the inner size: elements per token between the projections.
    pub(crate) fn inner(&self) -> i32 {
        self.n_heads * self.head_dim
    }

    /// Returns the channels of the convolution: the inputs of the heads, then `B` and `C` of each group.
    pub(crate) fn channels(&self) -> i32 {
        self.inner() + 2 * self.n_groups * self.state_dim
    }

    /// Returns the elements of a projected token: gate, channels of the convolution, and a step per head.
    pub(crate) fn projected(&self) -> i32 {
        self.inner() + self.channels() + self.n_heads
    }

    /// Returns the shape of the recurrent state.
    pub(crate) fn state(&self) -> StateShape {
        let heads = [self.n_heads, self.head_dim, self.state_dim];
        StateShape::new(self.conv_kernel, self.channels(), heads, self.projected())
    }
}

/// A Mamba-2 mixer without its projections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mamba2Weights<'a> {
    pub dims: Mamba2Dims,
    pub conv: Convolution<'a>,
    /// `[n_heads]`.
    pub dt_bias: &'a Array,
    /// `[n_heads]`.
    pub a_log: &'a Array,
    /// `[n_heads]`.
    pub d: &'a Array,
    /// Weight of the norm, `[inner]`.
    pub norm: &'a Array,
}
