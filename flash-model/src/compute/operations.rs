//! The operations of a backend.

use std::fmt::Debug;

use flash_kernels::Strips;
use mlx_rs::error::Exception;

use super::{
    Activation, AttentionInput, AttentionParams, ExpertRows, GatedDeltaInput, GatedDeltaWeights,
    Mamba2Weights, Matrix, Norm, Segment, Term, Value,
};
use crate::checkpoint::config::QuantizedFormat;
use crate::kv::CacheLayout;

/// The operations of a backend, and the properties that planning depends on.
pub(crate) trait Operations: Debug + Send + Sync {
    /// Returns the name of the backend's arithmetic: backends of different names round differently.
    fn name(&self) -> &'static str;

    /// Returns the bytes of scratch memory besides activations of `activation_bytes`, if MLX would widen weights to
    /// `widened_bytes`.
    fn scratch_bytes(&self, widened_bytes: u64, activation_bytes: u64) -> u64;

    /// Returns whether no product rounds activations further than f32 sums do, whether [wide](Matrix::is_wide) or not.
    fn is_exact(&self) -> bool;

    /// Returns the layout of keys, values and states that this backend requires.
    fn cache_layout(&self) -> CacheLayout;

    /// Returns whether attention over a contiguous cache holds the scores of all tokens in memory at once.
    fn scores_all_at_once(&self) -> bool;

    /// Returns whether a contiguous cache of a layer with a sliding window can be a ring buffer of that window.
    fn wraps_windows(&self) -> bool;

    /// Returns whether a row's results have the same bits whatever other rows are computed with it.
    fn is_batch_invariant(&self) -> bool;

    /// Returns whether a product copies half-precision weights to f32 first.
    fn widens_weights(&self) -> bool;

    /// Returns the strips that codes of this format are repacked into for faster products, if they are.
    fn strips(&self, format: QuantizedFormat) -> Option<Strips>;

    /// Computes `x · Wᵀ (+ bias)`, for `x` `[…, k]`.
    fn product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception>;

    /// Computes the [`product`](Self::product) with each of `matrices`, in order.
    fn products(&self, x: &Value, matrices: &[Matrix<'_>]) -> Result<Vec<Value>, Exception>;

    /// Computes `onto + x · Wᵀ (+ bias)`.
    fn add_product(&self, onto: &Value, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception>;

    /// Computes `activation(gate, values)`; `gate` has an element for each element or for each row of `values`.
    fn gated(&self, activation: Activation, gate: &Value, values: &Value) -> Result<Value, Exception>;

    /// Computes `activation(x · Gᵀ, x · Uᵀ)`.
    fn gated_product(
        &self,
        activation: Activation,
        x: &Value,
        gate: Matrix<'_>,
        up: Matrix<'_>,
    ) -> Result<Value, Exception>;

    /// Computes `x · Wᵀ` for `x` `[1, n, heads, k]` with a matrix per head: the arrays of `matrices` have a leading
    /// dimension `heads`.
    fn product_each(&self, x: &Value, matrices: Matrix<'_>) -> Result<Value, Exception>;

    /// Computes `relu(x · Wᵀ (+ bias))²`.
    fn squared_relu_product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception>;

    /// Normalizes the heads if there are norms, rotates queries and keys, appends the keys and values of each segment to
    /// its cache, and attends to all tokens of the segment's context so far. Returns `[1, n, heads · value_dim]`.
    fn attend(
        &self,
        params: &AttentionParams,
        input: AttentionInput<'_>,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception>;

    /// Computes the output of a gated delta net for new tokens, `[1, n, values]`, and advances the state of each segment.
    fn gated_delta(
        &self,
        net: GatedDeltaWeights<'_>,
        input: &GatedDeltaInput,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception>;

    /// Computes the output of a Mamba-2 mixer for new tokens, `[1, n, inner]`, from their projections,
    /// `[1, n, projected]`, and advances the state of each segment.
    fn mamba2(
        &self,
        mixer: Mamba2Weights<'_>,
        projected: &Value,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception>;

    /// Computes the outputs of experts, each for its rows of `x`, `[1, n, hidden]`, concatenated in the order of
    /// `work`: `[rows, hidden]`.
    fn expert_rows(&self, x: &Value, work: &[ExpertRows<'_>]) -> Result<Value, Exception>;

    /// Adds terms, in order, to `onto`, `[1, n, hidden]`: each is its row of `parts`, each `[rows, hidden]`, times its
    /// weight.
    fn add_rows(&self, onto: &Value, parts: &[Value], terms: &[Term]) -> Result<Value, Exception>;

    /// Computes RMSNorm over the last axis.
    fn rms_norm(&self, x: &Value, norm: Norm<'_>) -> Result<Value, Exception>;

    /// Computes `a + b`.
    fn sum(&self, a: &Value, b: &Value) -> Result<Value, Exception>;
}
