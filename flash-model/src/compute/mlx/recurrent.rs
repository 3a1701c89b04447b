//! Recurrent mixers between their projections, with MLX's operations.

mod gated_delta;
mod mamba2;

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, nn, ops};

pub(super) use gated_delta::gated_delta;
pub(super) use mamba2::mamba2;

use crate::compute::Convolution;
use crate::kv::{LayerKv, StateArrays};

/// Returns the recurrent state of a layer.
fn array_state(kv: &mut LayerKv) -> Result<&mut StateArrays, Exception> {
    match kv {
        LayerKv::ArrayState(state) => Ok(state),
        _ => Err(Exception::custom("the layer has no state of arrays")),
    }
}

/// Applies the causal convolution and `silu` to `x`, `[1, n, channels]`, preceded by the rows of `window`. Returns the
/// result and the window of the next tokens.
fn convolve(convolution: Convolution<'_>, window: &Array, x: &Array) -> Result<[Array; 2], Exception> {
    let (n, channels) = (x.dim(1), x.dim(2));
    let seen = ops::concatenate(&[window, x], 1)?;
    let weight = convolution.weight.reshape(&[channels, -1, 1])?;
    let mut y = ops::conv1d(&seen, weight, 1, 0, 1, channels)?;
    if let Some(bias) = convolution.bias {
        y = y.add(bias)?;
    }
    Ok([nn::silu(y)?, seen.try_index((.., n.., ..))?])
}

/// Splits the last axis at the given indices.
fn split<const N: usize>(x: &Array, cuts: &[i32]) -> Result<[Array; N], Exception> {
    let parts = x.split_at_indices(cuts, -1)?;
    parts.try_into().map_err(|_| Exception::custom("the number of parts is one more than that of indices"))
}

/// Copies weights, whose memory is refilled after the pass.
fn owned<const N: usize>(weights: [&Array; N]) -> Result<[Array; N], Exception> {
    mlx_rs::transforms::eval(weights)?;
    Ok(weights.map(Array::deep_clone))
}

/// Returns the first `n` rows of projections, each `[1, rows, …]`.
fn first_rows<const N: usize>(projected: &[Array; N], n: i32) -> Result<[Array; N], Exception> {
    let rows = projected.iter().map(|rows| rows.try_index((.., ..n))).collect::<Result<Vec<_>, _>>()?;
    rows.try_into().map_err(|_| Exception::custom("each projection has its first rows"))
}

fn float32(array: &Array) -> Result<Array, Exception> {
    array.as_dtype(Dtype::Float32)
}
