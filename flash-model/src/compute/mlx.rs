//! The backend of MLX's own operations.

mod experts;
mod paged;
mod recurrent;
mod segments;

use std::ops::Range;

use flash_kernels::Strips;
use mlx_rs::error::Exception;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as Mask};
use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp};
use mlx_rs::{Array, Dtype, nn, ops};

use super::arrays::to_arrays;
use super::{
    Activation, AttentionInput, AttentionParams, ExpertRows, GatedDeltaInput, GatedDeltaWeights, HeadNorms,
    Mamba2Weights, Matrix, Norm, NormArgs, Operations, Quantized, Segment, Term, Value,
};
use crate::checkpoint::config::{QuantizedFormat, QuantizedMode};
use crate::kv::{CacheLayout, LayerKv};
use crate::mlx::quantized::quantized_matmul;
use segments::by_segment;

/// The backend that computes with MLX's own operations, on its default device.
#[derive(Debug)]
pub(super) struct Mlx;

impl Operations for Mlx {
    fn name(&self) -> &'static str {
        "mlx"
    }

    fn scratch_bytes(&self, widened_bytes: u64, _activation_bytes: u64) -> u64 {
        widened_bytes
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn cache_layout(&self) -> CacheLayout {
        CacheLayout::Arrays
    }

    fn scores_all_at_once(&self) -> bool {
        true
    }

    fn wraps_windows(&self) -> bool {
        // MLX's attention requires tokens in the order of their positions.
        false
    }

    fn is_batch_invariant(&self) -> bool {
        // MLX has kernels of their own for one row, for a few and for many.
        false
    }

    fn widens_weights(&self) -> bool {
        true
    }

    fn strips(&self, _format: QuantizedFormat) -> Option<Strips> {
        None
    }

    fn product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        Ok(product(&x.array()?, matrix)?.into())
    }

    fn products(&self, x: &Value, matrices: &[Matrix<'_>]) -> Result<Vec<Value>, Exception> {
        let x = x.array()?;
        matrices.iter().map(|matrix| Ok(product(&x, *matrix)?.into())).collect()
    }

    fn add_product(&self, onto: &Value, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        Ok(onto.array()?.add(product(&x.array()?, matrix)?)?.into())
    }

    fn gated(&self, activation: Activation, gate: &Value, values: &Value) -> Result<Value, Exception> {
        Ok(gated(activation, &gate.array()?, &values.array()?)?.into())
    }

    fn gated_product(
        &self,
        activation: Activation,
        x: &Value,
        gate: Matrix<'_>,
        up: Matrix<'_>,
    ) -> Result<Value, Exception> {
        Ok(gated_product(activation, &x.array()?, gate, up)?.into())
    }

    fn product_each(&self, x: &Value, matrices: Matrix<'_>) -> Result<Value, Exception> {
        let by_head = x.array()?.transpose_axes(&[0, 2, 1, 3])?;
        Ok(product(&by_head, matrices)?.transpose_axes(&[0, 2, 1, 3])?.into())
    }

    fn squared_relu_product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        Ok(squared_relu_product(&x.array()?, matrix)?.into())
    }

    fn attend(
        &self,
        params: &AttentionParams,
        input: AttentionInput<'_>,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception> {
        let AttentionInput { queries, keys, values, norms, sinks } = input;
        let (queries, keys) = (queries.array()?, keys.array()?);
        let values = values.map(Value::array).transpose()?;
        let attended = by_segment(segments, |rows, segment| {
            let values = values.as_ref().map(|values| rows.of(values)).transpose()?;
            let new = NewTokens { queries: rows.of(&queries)?, keys: rows.of(&keys)?, values, norms, sinks };
            attend(params, new, segment.kv, segment.position)
        });
        Ok(attended?.into())
    }

    fn gated_delta(
        &self,
        net: GatedDeltaWeights<'_>,
        input: &GatedDeltaInput,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception> {
        let GatedDeltaInput { qkv, gate, beta, step } = input;
        let [qkv, gate, beta, step] = [qkv.array()?, gate.array()?, beta.array()?, step.array()?];
        let mixed = by_segment(segments, |rows, segment| {
            let projected = [rows.of(&qkv)?, rows.of(&gate)?, rows.of(&beta)?, rows.of(&step)?];
            recurrent::gated_delta(net, projected, segment.kv)
        });
        Ok(mixed?.into())
    }

    fn mamba2(
        &self,
        mixer: Mamba2Weights<'_>,
        projected: &Value,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception> {
        let projected = projected.array()?;
        let mixed =
            by_segment(segments, |rows, segment| recurrent::mamba2(mixer, &rows.of(&projected)?, segment.kv));
        Ok(mixed?.into())
    }

    fn expert_rows(&self, x: &Value, work: &[ExpertRows<'_>]) -> Result<Value, Exception> {
        Ok(experts::expert_rows(&x.array()?, work)?.into())
    }

    fn add_rows(&self, onto: &Value, parts: &[Value], terms: &[Term]) -> Result<Value, Exception> {
        Ok(experts::add_rows(&onto.array()?, &to_arrays(parts)?, terms)?.into())
    }

    fn rms_norm(&self, x: &Value, norm: Norm<'_>) -> Result<Value, Exception> {
        Ok(rms_norm(&x.array()?, norm)?.into())
    }

    fn sum(&self, a: &Value, b: &Value) -> Result<Value, Exception> {
        Ok(a.array()?.add(b.array()?)?.into())
    }
}

fn product(x: &Array, matrix: Matrix<'_>) -> Result<Array, Exception> {
    let Matrix { weight, quantized, bias, is_wide: _ } = matrix;
    let Some(quantized) = quantized else {
        return match bias {
            Some(bias) => ops::addmm(bias, x, weight.t(), None, None),
            None => ops::matmul(x, weight.swap_axes(-1, -2)?),
        };
    };
    let Quantized { format: QuantizedFormat { group_size, bits, mode }, scales, biases } = quantized;
    let y = match mode {
        QuantizedMode::Affine => ops::quantized_matmul(x, weight, scales, biases, true, group_size, bits)?,
        QuantizedMode::Mxfp4 => quantized_matmul(x, weight, scales, c"mxfp4", group_size, bits)?,
        QuantizedMode::Mxfp8 => quantized_matmul(x, weight, scales, c"mxfp8", group_size, bits)?,
        QuantizedMode::Nvfp4 => quantized_matmul(x, weight, scales, c"nvfp4", group_size, bits)?,
    };
    match bias {
        Some(bias) => y.add(bias),
        None => Ok(y),
    }
}

fn gated_product(
    activation: Activation,
    x: &Array,
    gate: Matrix<'_>,
    up: Matrix<'_>,
) -> Result<Array, Exception> {
    gated(activation, &product(x, gate)?, &product(x, up)?)
}

/// Computes `activation(gate, up)`; `gate` has an element for each element or for each row of `up`.
fn gated(activation: Activation, gate: &Array, up: &Array) -> Result<Array, Exception> {
    match activation {
        Activation::Silu => nn::silu(gate)?.multiply(up),
        Activation::GeluTanh => nn::gelu_approximate(gate)?.multiply(up),
        Activation::Sigmoid => ops::sigmoid(gate)?.multiply(up),
        Activation::ClampedSilu { alpha, limit } => {
            let [alpha, limit, least, one] = [alpha, limit, -limit, 1.0].map(Array::from_f32);
            let gate = ops::minimum(gate, &limit)?;
            let up = ops::maximum(ops::minimum(up, &limit)?, least)?;
            gate.multiply(ops::sigmoid(gate.multiply(alpha)?)?)?.multiply(up.add(one)?)
        }
    }
}

/// Computes `relu(x · Wᵀ (+ bias))²`.
fn squared_relu_product(x: &Array, matrix: Matrix<'_>) -> Result<Array, Exception> {
    nn::relu(product(x, matrix)?)?.square()
}

fn rms_norm(
    x: &Array,
    Norm { weight, args: NormArgs { eps, weight_offset } }: Norm<'_>,
) -> Result<Array, Exception> {
    if weight_offset == 0.0 {
        return fast::rms_norm(x, Some(weight), eps);
    }
    // In f32 for any stored dtype, as mlx-lm does for a model in f32.
    let weight = weight.as_dtype(Dtype::Float32)?.add(Array::from_f32(weight_offset))?;
    fast::rms_norm(x, Some(&weight), eps)
}

/// Projections of a segment's new tokens: [`AttentionInput`] as arrays.
#[derive(Debug)]
struct NewTokens<'a> {
    queries: Array,
    keys: Array,
    values: Option<Array>,
    norms: Option<HeadNorms<'a>>,
    sinks: Option<&'a Array>,
}

fn attend(
    params: &AttentionParams,
    new: NewTokens<'_>,
    kv: &mut LayerKv,
    position: usize,
) -> Result<Array, Exception> {
    let AttentionParams { n_heads, n_kv_heads, scale, window, .. } = *params;
    let NewTokens { queries, keys, values, norms, sinks } = new;
    let n = queries.dim(1);
    let heads = |x: &Array, n_heads, norm: Option<Norm<'_>>| {
        let mut x = split_heads(x, n_heads)?;
        if let Some(norm) = norm {
            x = rms_norm(&x, norm)?;
        }
        match &params.rope {
            Some(rope) => rope.apply(&x, position),
            None => Ok(x),
        }
    };
    let queries = heads(&queries, n_heads, norms.map(|norms| norms.queries))?;
    let keys = heads(&keys, n_kv_heads, norms.map(|norms| norms.keys))?;
    let values = values.map(|values| split_heads(&values, n_kv_heads)).transpose()?;
    let sinks = sinks.map(|sinks| sinks.as_dtype(Dtype::Float32)).transpose()?;
    if let LayerKv::Paged(layer) = kv {
        let new = paged::NewTokens { queries: &queries, keys: &keys, values: values.as_ref() };
        let attended = paged::attend(layer, params, position, new, sinks.as_ref())?;
        return attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, n, -1]);
    }
    let (mut keys, values) = kv.append(&keys, values.as_ref(), position)?;
    let mut values = values.map_or_else(|| params.values_in(&keys), Ok)?;
    let mut mask = (n > 1).then_some(Mask::Causal);
    let end = position + n as usize;
    let window_mask;
    if let Some(window) = window.filter(|window| *window < end) {
        // The first token that the first of the new tokens attends to.
        let start = (position + 1).saturating_sub(window);
        keys = keys.try_index((.., .., start as i32.., ..))?;
        values = values.try_index((.., .., start as i32.., ..))?;
        if n > 1 {
            window_mask = attention_mask(position..end, start..end, Some(window));
            mask = Some(Mask::Array(&window_mask));
        }
    }
    let attended = fast::scaled_dot_product_attention(&queries, keys, values, scale, mask, sinks.as_ref())?;
    attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, n, -1])
}

impl AttentionParams {
    /// Returns the values that are stored inside `keys`, `[…, head_dim]`.
    fn values_in(&self, keys: &Array) -> Result<Array, Exception> {
        let head_dim = keys.dim(-1);
        keys.try_index((Ellipsis, head_dim - self.value_dim.unwrap_or(head_dim)..))
    }
}

/// Returns the causal mask `[1, rows, tokens]` of queries and tokens at the given positions: whether each row attends
/// to each token.
fn attention_mask(
    rows: impl ExactSizeIterator<Item = usize>,
    tokens: Range<usize>,
    window: Option<usize>,
) -> Array {
    let shape = [1, rows.len() as i32, tokens.len() as i32];
    let is_seen = |row: usize, token| token <= row && window.is_none_or(|window| row - token < window);
    let mask: Vec<bool> = rows.flat_map(|row| tokens.clone().map(move |token| is_seen(row, token))).collect();
    Array::from_slice(&mask, &shape)
}

/// Reshapes `[1, n, heads · head_dim]` to `[1, heads, n, head_dim]`.
fn split_heads(x: &Array, n_heads: i32) -> Result<Array, Exception> {
    x.reshape(&[1, x.dim(1), n_heads, -1])?.transpose_axes(&[0, 2, 1, 3])
}
