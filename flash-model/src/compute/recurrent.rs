//! Recurrent mixers between their projections: the gated delta net and Mamba-2.

use mlx_rs::Array;

use super::Value;
use crate::kv::StateShape;

/// The short causal convolution in front of a recurrence: each channel by itself, over a token and the few before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Convolution<'a> {
    /// `[channels, kernel, 1]` or `[channels, 1, kernel]`, which is the same memory.
    pub weight: &'a Array,
    /// `[channels]`.
    pub bias: Option<&'a Array>,
}

/// Sizes of a gated delta net.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedDeltaDims {
    /// Heads of queries and keys, each shared by as many value heads as the others.
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Tokens that the convolution sees.
    pub conv_kernel: i32,
    /// Added to the mean of the squares by the norm of each head.
    pub eps: f32,
}

impl GatedDeltaDims {
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

    /// The state that the tokens so far leave.
    pub(crate) fn state(&self) -> StateShape {
        let [kernel, channels, heads, rows, columns] =
            [self.conv_kernel, self.channels(), self.value_heads, self.value_dim, self.key_dim]
                .map(|extent| extent as usize);
        StateShape { conv: [kernel - 1, channels], heads: [heads, rows, columns] }
    }
}

/// A gated delta net without its projections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedDeltaWeights<'a> {
    pub dims: GatedDeltaDims,
    pub conv: Convolution<'a>,
    /// `[value_heads]`, as the next.
    pub dt_bias: &'a Array,
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
    /// How much is corrected, before the sigmoid: `[1, n, value_heads]`.
    pub beta: Value,
    /// The steps, before `dt_bias` is added: `[1, n, value_heads]`.
    pub step: Value,
}

/// Sizes of a Mamba-2 mixer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mamba2Dims {
    pub n_heads: i32,
    pub head_dim: i32,
    /// Each has a `B` and a `C` for as many heads as the others, and is normalised by itself.
    pub n_groups: i32,
    /// Columns of a head's state.
    pub state_dim: i32,
    /// Tokens that the convolution sees.
    pub conv_kernel: i32,
    /// Added to the mean of the squares by the norm of each group.
    pub eps: f32,
    /// The shortest and the longest step.
    pub step_limits: [f32; 2],
}

impl Mamba2Dims {
    /// Numbers of a token between the projections.
    pub(crate) fn inner(&self) -> i32 {
        self.n_heads * self.head_dim
    }

    /// Channels of the convolution: the inputs of the heads, then `B` and `C` of each group.
    pub(crate) fn channels(&self) -> i32 {
        self.inner() + 2 * self.n_groups * self.state_dim
    }

    /// Numbers of a projected token: its gate, the channels, a step for each head.
    pub(crate) fn projected(&self) -> i32 {
        self.inner() + self.channels() + self.n_heads
    }

    /// The state that the tokens so far leave.
    pub(crate) fn state(&self) -> StateShape {
        let [kernel, channels, heads, head_dim, state_dim] =
            [self.conv_kernel, self.channels(), self.n_heads, self.head_dim, self.state_dim]
                .map(|extent| extent as usize);
        StateShape { conv: [kernel - 1, channels], heads: [heads, head_dim, state_dim] }
    }
}

/// A Mamba-2 mixer without its projections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mamba2Weights<'a> {
    pub dims: Mamba2Dims,
    pub conv: Convolution<'a>,
    /// `[n_heads]`, as the next two.
    pub dt_bias: &'a Array,
    pub a_log: &'a Array,
    pub d: &'a Array,
    /// Weight of the norm, `[inner]`.
    pub norm: &'a Array,
}
