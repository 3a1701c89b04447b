//! Attention with its positions and its cache, as one node.

use std::ffi::CStr;
use std::sync::Arc;

use flash_kernels::{Gaze, Heads, KeysValues, Pool, Rope};
use flash_kv::LayerBuffers;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use super::expect;
use super::paged::PagedAttention;
use crate::attention::CausalAttention;
use crate::compute::AttentionInput;
use crate::kv::LayerKv;
use crate::mlx::kernel::{Kernel, lazy};

/// [`CausalAttention`] over a cache that is shared with the graph. Inputs: queries, keys, values.
struct Attention {
    pool: Arc<Pool>,
    heads: Heads,
    gaze: Gaze,
    rope: Arc<Rope>,
    kv: Arc<Mutex<LayerBuffers>>,
    position: usize,
}

pub(in crate::compute) fn attend(
    pool: &Arc<Pool>,
    attention: &CausalAttention,
    input: AttentionInput<'_>,
    kv: &LayerKv,
) -> Result<Array, Exception> {
    let CausalAttention { n_heads, n_kv_heads, scale, rope, .. } = attention;
    let AttentionInput { queries, keys, values, position } = input;
    let (n_heads, n_kv_heads) = (*n_heads as usize, *n_kv_heads as usize);
    let heads =
        Heads { query_heads: n_heads, kv_heads: n_kv_heads, head_dim: queries.dim(-1) as usize / n_heads };
    let kv_dims = [queries.dim(0), queries.dim(1), (n_kv_heads * heads.head_dim) as i32];
    expect(keys.shape() == kv_dims && values.shape() == kv_dims, "keys and values for each token")?;
    let (pool, rope, gaze) =
        (Arc::clone(pool), Arc::clone(rope.kernel()), Gaze { scale: *scale, window: None });
    let kv = match kv {
        LayerKv::Shared(kv) => kv,
        LayerKv::Paged(layer) => {
            let layer = Arc::clone(layer);
            let node = PagedAttention { pool, heads, gaze, rope, layer, position };
            let [attended] = lazy(node, &[queries, keys, values], [queries.shape()])?;
            return Ok(attended);
        }
        LayerKv::Arrays { .. } => {
            return Err(Exception::custom("the cache of a layer is not shared with the graph"));
        }
    };
    let token_bytes = n_kv_heads * heads.head_dim * size_of::<f32>();
    let end_bytes = (position + queries.dim(1) as usize) * token_bytes;
    expect(end_bytes <= kv.lock().keys.len(), "room in the cache for each token")?;
    let node = Attention { pool, heads, gaze, rope, kv: Arc::clone(kv), position };
    let [attended] = lazy(node, &[queries, keys, values], [queries.shape()])?;
    Ok(attended)
}

impl Kernel for Attention {
    const NAME: &'static CStr = c"FlashAttention";

    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { pool, heads, gaze, rope, kv, position } = self;
        let Heads { query_heads, kv_heads, head_dim } = *heads;
        let [queries, new_keys, new_values] =
            [0, 1, 2].map(|idx| bytemuck::cast_slice::<u8, f32>(inputs[idx]));
        let mut kv = kv.lock();
        let LayerBuffers { keys, values } = &mut *kv;
        let keys: &mut [f32] = bytemuck::cast_slice_mut(keys.as_mut_slice());
        let values: &mut [f32] = bytemuck::cast_slice_mut(values.as_mut_slice());
        let head_len = keys.len() / kv_heads;

        let token_len = kv_heads * head_dim;
        let new_keys = rotated(rope, *position, head_dim, token_len, new_keys);
        let new = new_keys.chunks_exact(token_len).zip(new_values.chunks_exact(token_len));
        for (position, (new_key, new_value)) in (*position..).zip(new) {
            let heads = new_key.chunks_exact(head_dim).zip(new_value.chunks_exact(head_dim));
            for (head, (key, value)) in heads.enumerate() {
                let place = head * head_len + position * head_dim;
                keys[place..place + head_dim].copy_from_slice(key);
                values[place..place + head_dim].copy_from_slice(value);
            }
        }
        let queries = rotated(rope, *position, head_dim, query_heads * head_dim, queries);
        flash_kernels::attend(
            pool,
            *heads,
            *gaze,
            &queries,
            KeysValues { keys, values },
            *position,
            outputs[0],
        );
    }
}

/// Tokens of `row_len` numbers, rotated; the first stands at `position`.
pub(super) fn rotated(rope: &Rope, position: usize, head_dim: usize, row_len: usize, x: &[f32]) -> Vec<f32> {
    let mut rotated = vec![0.0; x.len()];
    let rows = x.chunks_exact(row_len).zip(rotated.chunks_exact_mut(row_len));
    for (position, (row, rotated)) in (position..).zip(rows) {
        rope.rotate(position, head_dim, row, rotated);
    }
    rotated
}
