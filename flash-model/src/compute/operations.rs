//! What a backend can do.

use std::fmt::Debug;

use mlx_rs::error::Exception;

use super::{
    Activation, AttentionInput, AttentionParams, ExpertRows, GatedDeltaInput, GatedDeltaWeights,
    Mamba2Weights, Matrix, Norm, Term, Value,
};
use crate::checkpoint::config::QuantizedFormat;
use crate::kv::{CacheLayout, LayerKv};

/// The operations of a backend, and what it needs to be planned for.
pub(crate) trait Operations: Debug + Send + Sync {
    /// Names the arithmetic: backends of other names round differently.
    fn name(&self) -> &'static str;

    /// Bytes that computing takes beside activations of `activation_bytes`, where MLX would widen weights to `widened_bytes`.
    fn scratch_bytes(&self, widened_bytes: u64, activation_bytes: u64) -> u64;

    /// Whether products round activations no further than sums in f32 do, also those that are not [wide](Matrix::is_wide).
    fn is_exact(&self) -> bool;

    /// How the keys, values and states of layers are kept for this backend.
    fn cache_layout(&self) -> CacheLayout;

    /// Whether the scores of all tokens of a cache in one piece are in memory at once.
    fn scores_all_at_once(&self) -> bool;

    /// Whether a layer with a sliding window needs memory for that window alone, in one piece.
    fn wraps_windows(&self) -> bool;

    /// Whether a product copies half-precision weights to f32 first.
    fn widens_weights(&self) -> bool;

    /// Whether products are faster if codes of this format are repacked into strips.
    fn prefers_strips(&self, format: QuantizedFormat) -> bool;

    /// `x · Wᵀ (+ bias)`, for `x` `[…, k]`.
    fn product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception>;

    /// The [`product`](Self::product) with each of `matrices`, in their order.
    fn products(&self, x: &Value, matrices: &[Matrix<'_>]) -> Result<Vec<Value>, Exception>;

    /// `onto + x · Wᵀ (+ bias)`.
    fn add_product(&self, onto: &Value, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception>;

    /// `activation(gate, values)`: `gate` has as many numbers as `values`, or one for each row.
    fn gated(&self, activation: Activation, gate: &Value, values: &Value) -> Result<Value, Exception>;

    /// `activation(x · Gᵀ, x · Uᵀ)`.
    fn gated_product(
        &self,
        activation: Activation,
        x: &Value,
        gate: Matrix<'_>,
        up: Matrix<'_>,
    ) -> Result<Value, Exception>;

    /// `x · Wᵀ` for `x` `[1, n, heads, k]`, with a matrix for each head: its arrays have a dimension more, `[heads, …]`.
    fn product_each(&self, x: &Value, matrices: Matrix<'_>) -> Result<Value, Exception>;

    /// `relu(x · Wᵀ (+ bias))²`.
    fn squared_relu_product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception>;

    /// Normalises the heads if there are norms, rotates queries and keys, appends keys and values to the cache, and attends to
    /// all tokens so far: `[1, n, heads · value_dim]`.
    fn attend(
        &self,
        params: &AttentionParams,
        input: AttentionInput<'_>,
        kv: &mut LayerKv,
    ) -> Result<Value, Exception>;

    /// The output of a gated delta net for new tokens, `[1, n, values]`; `kv` holds the state before them and gets the one after.
    fn gated_delta(
        &self,
        net: GatedDeltaWeights<'_>,
        input: &GatedDeltaInput,
        kv: &mut LayerKv,
    ) -> Result<Value, Exception>;

    /// The output of a Mamba-2 mixer for new tokens, `[1, n, inner]`, from their projections `[1, n, projected]`; `kv` holds the
    /// state before them and gets the one after.
    fn mamba2(
        &self,
        mixer: Mamba2Weights<'_>,
        projected: &Value,
        kv: &mut LayerKv,
    ) -> Result<Value, Exception>;

    /// The outputs of experts, each for its rows of `x`, `[1, n, hidden]`, one expert after the other: `[rows, hidden]`.
    fn expert_rows(&self, x: &Value, work: &[ExpertRows<'_>]) -> Result<Value, Exception>;

    /// `onto`, `[1, n, hidden]`, plus each term in order: its row of `parts`, each `[rows, hidden]`, times its weight.
    fn add_rows(&self, onto: &Value, parts: &[Value], terms: &[Term]) -> Result<Value, Exception>;

    /// RMSNorm over the last axis.
    fn rms_norm(&self, x: &Value, norm: Norm<'_>) -> Result<Value, Exception>;

    /// `a + b`.
    fn sum(&self, a: &Value, b: &Value) -> Result<Value, Exception>;
}
