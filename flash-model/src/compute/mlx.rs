//! What takes more than one of MLX's operations.

mod experts;
mod paged;

use mlx_rs::error::Exception;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as Mask};
use mlx_rs::{Array, ops};

pub(super) use experts::{add_rows, expert_rows};

use super::{AttentionInput, Matrix, Quantized};
use crate::attention::CausalAttention;
use crate::config::QuantizedFormat;
use crate::kv::LayerKv;

pub(super) fn product(x: &Array, matrix: Matrix<'_>) -> Result<Array, Exception> {
    let Matrix { weight, quantized, bias } = matrix;
    let Some(Quantized { format: QuantizedFormat { group_size, bits }, scales, biases }) = quantized else {
        return match bias {
            Some(bias) => ops::addmm(bias, x, weight.t(), None, None),
            None => ops::matmul(x, weight.t()),
        };
    };
    let y = ops::quantized_matmul(x, weight, scales, biases, true, group_size, bits)?;
    match bias {
        Some(bias) => y.add(bias),
        None => Ok(y),
    }
}

pub(super) fn products<const N: usize>(
    x: &Array,
    matrices: [Matrix<'_>; N],
) -> Result<[Array; N], Exception> {
    let products = matrices.into_iter().map(|matrix| product(x, matrix)).collect::<Result<Vec<_>, _>>()?;
    Ok(products.try_into().expect("one for each"))
}

pub(super) fn attend(
    attention: &CausalAttention,
    input: AttentionInput<'_>,
    kv: &mut LayerKv,
) -> Result<Array, Exception> {
    let CausalAttention { n_heads, n_kv_heads, scale, rope, .. } = attention;
    let AttentionInput { queries, keys, values, position } = input;
    let n = queries.dim(1);
    let queries = rope.apply(&split_heads(queries, *n_heads)?, position)?;
    let keys = rope.apply(&split_heads(keys, *n_kv_heads)?, position)?;
    if let LayerKv::Paged(layer) = kv {
        let attended =
            paged::attend(layer, *scale, position, [&queries, &keys, &split_heads(values, *n_kv_heads)?])?;
        return attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, n, -1]);
    }
    let (keys, values) = kv.append(&keys, &split_heads(values, *n_kv_heads)?, position)?;
    let mask = (n > 1).then_some(Mask::Causal);
    let attended = fast::scaled_dot_product_attention(&queries, keys, values, *scale, mask, None)?;
    attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, n, -1])
}

/// `[1, n, heads · head_dim]` to `[1, heads, n, head_dim]`.
fn split_heads(x: &Array, n_heads: i32) -> Result<Array, Exception> {
    x.reshape(&[1, x.dim(1), n_heads, -1])?.transpose_axes(&[0, 2, 1, 3])
}
