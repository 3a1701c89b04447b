//! The kernels of `flash-kernels` as nodes of MLX's graph.

use std::ffi::CStr;
use std::sync::Arc;

use flash_kernels::{FloatType, Floats, Heads, KeysValues, Matrix, Pool, Rope, matmul};
use flash_kv::LayerBuffers;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};
use parking_lot::Mutex;

use super::{AttentionInput, Quantized};
use crate::attention::CausalAttention;
use crate::config::QuantizedFormat;
use crate::kv::LayerKv;
use crate::mlx::kernel::{Kernel, lazy};

/// `x · Wᵀ (+ bias)`. Inputs: `x`, the weight, scales and biases if it is quantised, the bias if there is one.
struct Linear {
    pool: Arc<Pool>,
    shape: [usize; 2],
    storage: Storage,
    bias: Option<FloatType>,
}

/// How the weight is stored.
#[derive(Clone, Copy)]
enum Storage {
    Float(FloatType),
    Affine { format: QuantizedFormat, float: FloatType },
}

pub(super) fn linear(pool: &Arc<Pool>, x: &Array, matrix: super::Matrix<'_>) -> Result<Array, Exception> {
    let super::Matrix { weight, quantized, bias } = matrix;
    let (n, k) = (weight.dim(0), x.dim(-1));
    let mut inputs = vec![x, weight];
    let (storage, weight_columns) = match quantized {
        None => (Storage::Float(float_type(weight)?), k),
        Some(Quantized { format, scales, biases }) => {
            let float = float_type(scales)?;
            expect(float_type(biases)? == float, "scales and biases of one type")?;
            let groups = [n, k / format.group_size];
            expect(k % format.group_size == 0 && weight.dtype() == Dtype::Uint32, "codes in whole groups")?;
            expect(
                scales.shape() == groups && biases.shape() == groups,
                "a scale and a bias for each group",
            )?;
            inputs.extend([scales, biases]);
            (Storage::Affine { format, float }, k * format.bits / 32)
        }
    };
    expect(x.dtype() == Dtype::Float32 && weight.shape() == [n, weight_columns], "rows that fit the matrix")?;
    if let Some(bias) = bias {
        expect(bias.shape() == [n], "a bias for each row")?;
        inputs.push(bias);
    }
    let bias = bias.map(float_type).transpose()?;
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("it has a last dimension, which is k") = n;
    lazy(Linear { pool: Arc::clone(pool), shape: [n as usize, k as usize], storage, bias }, &inputs, &shape)
}

impl Kernel for Linear {
    const NAME: &'static CStr = c"FlashLinear";

    fn run(&mut self, inputs: &[&[u8]], output: &mut [f32]) {
        let ([x, weight], rest) = inputs.split_first_chunk().expect("pushed above");
        let (matrix, rest) = match self.storage {
            Storage::Float(float) => (Matrix::float(self.shape, Floats { float, bytes: weight }), rest),
            Storage::Affine { format: QuantizedFormat { group_size, bits }, float } => {
                let ([scales, biases], rest) = rest.split_first_chunk().expect("pushed above");
                let (bits, group_size) = (bits as u32, group_size as usize);
                (Matrix::affine(self.shape, bits, group_size, weight, float, scales, biases), rest)
            }
        };
        let bias = self.bias.map(|float| Floats { float, bytes: rest[0] });
        matrix
            .and_then(|matrix| matmul(&self.pool, bytemuck::cast_slice(x), &matrix, bias, output))
            .expect("the shapes were checked when the node was made");
    }
}

fn float_type(array: &Array) -> Result<FloatType, Exception> {
    match array.dtype() {
        Dtype::Float32 => Ok(FloatType::F32),
        Dtype::Float16 => Ok(FloatType::F16),
        Dtype::Bfloat16 => Ok(FloatType::BF16),
        other => Err(Exception::custom(format!("no kernel multiplies {other:?}"))),
    }
}

fn expect(holds: bool, what: &'static str) -> Result<(), Exception> {
    if holds { Ok(()) } else { Err(Exception::custom(format!("a kernel was given no {what}"))) }
}

/// [`CausalAttention`] over a cache that is shared with the graph. Inputs: queries, keys, values.
struct Attention {
    pool: Arc<Pool>,
    heads: Heads,
    scale: f32,
    rope: Arc<Rope>,
    kv: Arc<Mutex<LayerBuffers>>,
    position: usize,
}

pub(super) fn attend(
    pool: &Arc<Pool>,
    attention: &CausalAttention,
    input: AttentionInput<'_>,
    kv: &LayerKv,
) -> Result<Array, Exception> {
    let CausalAttention { n_heads, n_kv_heads, scale, rope, .. } = attention;
    let AttentionInput { queries, keys, values, position } = input;
    let LayerKv::Shared(kv) = kv else {
        return Err(Exception::custom("the cache of a layer is not shared with the graph"));
    };
    let (n_heads, n_kv_heads) = (*n_heads as usize, *n_kv_heads as usize);
    let heads =
        Heads { query_heads: n_heads, kv_heads: n_kv_heads, head_dim: queries.dim(-1) as usize / n_heads };
    let kv_dims = [queries.dim(0), queries.dim(1), (n_kv_heads * heads.head_dim) as i32];
    expect(keys.shape() == kv_dims && values.shape() == kv_dims, "keys and values for each token")?;
    let token_bytes = n_kv_heads * heads.head_dim * size_of::<f32>();
    let end_bytes = (position + queries.dim(1) as usize) * token_bytes;
    expect(end_bytes <= kv.lock().keys.len(), "room in the cache for each token")?;
    let node = Attention {
        pool: Arc::clone(pool),
        heads,
        scale: *scale,
        rope: Arc::clone(rope.kernel()),
        kv: Arc::clone(kv),
        position,
    };
    lazy(node, &[queries, keys, values], queries.shape())
}

impl Kernel for Attention {
    const NAME: &'static CStr = c"FlashAttention";

    fn run(&mut self, inputs: &[&[u8]], output: &mut [f32]) {
        let Self { pool, heads, scale, rope, kv, position } = self;
        let Heads { query_heads, kv_heads, head_dim } = *heads;
        let [queries, new_keys, new_values] =
            [0, 1, 2].map(|idx| bytemuck::cast_slice::<u8, f32>(inputs[idx]));
        let mut kv = kv.lock();
        let LayerBuffers { keys, values } = &mut *kv;
        let keys: &mut [f32] = bytemuck::cast_slice_mut(keys.as_mut_slice());
        let values: &mut [f32] = bytemuck::cast_slice_mut(values.as_mut_slice());
        let head_len = keys.len() / kv_heads;

        let token_len = kv_heads * head_dim;
        let mut rotated = vec![0.0; token_len];
        let new = new_keys.chunks_exact(token_len).zip(new_values.chunks_exact(token_len));
        for (position, (new_key, new_value)) in (*position..).zip(new) {
            rope.rotate(position, head_dim, new_key, &mut rotated);
            let heads = rotated.chunks_exact(head_dim).zip(new_value.chunks_exact(head_dim));
            for (head, (key, value)) in heads.enumerate() {
                let place = head * head_len + position * head_dim;
                keys[place..place + head_dim].copy_from_slice(key);
                values[place..place + head_dim].copy_from_slice(value);
            }
        }
        let row_len = query_heads * head_dim;
        let mut rotated = vec![0.0; queries.len()];
        let rows = queries.chunks_exact(row_len).zip(rotated.chunks_exact_mut(row_len));
        for (position, (query, rotated)) in (*position..).zip(rows) {
            rope.rotate(position, head_dim, query, rotated);
        }
        flash_kernels::attend(pool, *heads, *scale, &rotated, KeysValues { keys, values }, *position, output);
    }
}

/// RMSNorm. Inputs: `x`, the weight.
struct RmsNorm {
    pool: Arc<Pool>,
    weight: FloatType,
    eps: f32,
}

pub(super) fn rms_norm(pool: &Arc<Pool>, x: &Array, weight: &Array, eps: f32) -> Result<Array, Exception> {
    expect(weight.shape() == [x.dim(-1)] && x.dim(-1) > 0, "a weight for each column")?;
    expect(x.dtype() == Dtype::Float32, "rows in float32")?;
    let node = RmsNorm { pool: Arc::clone(pool), weight: float_type(weight)?, eps };
    lazy(node, &[x, weight], x.shape())
}

impl Kernel for RmsNorm {
    const NAME: &'static CStr = c"FlashRmsNorm";

    fn run(&mut self, inputs: &[&[u8]], output: &mut [f32]) {
        let weight = Floats { float: self.weight, bytes: inputs[1] };
        flash_kernels::rms_norm(&self.pool, bytemuck::cast_slice(inputs[0]), weight, self.eps, output);
    }
}

/// `silu(gate) · up`. Inputs: `gate`, `up`.
struct SwiGlu {
    pool: Arc<Pool>,
}

pub(super) fn swiglu(pool: &Arc<Pool>, gate: &Array, up: &Array) -> Result<Array, Exception> {
    expect(gate.shape() == up.shape(), "gate for each value")?;
    expect([gate, up].iter().all(|array| array.dtype() == Dtype::Float32), "rows in float32")?;
    lazy(SwiGlu { pool: Arc::clone(pool) }, &[gate, up], gate.shape())
}

impl Kernel for SwiGlu {
    const NAME: &'static CStr = c"FlashSwiGlu";

    fn run(&mut self, inputs: &[&[u8]], output: &mut [f32]) {
        let [gate, up] = [0, 1].map(|idx| bytemuck::cast_slice(inputs[idx]));
        flash_kernels::swiglu(&self.pool, gate, up, output);
    }
}
