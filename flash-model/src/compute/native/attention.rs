//! Attention over a contiguous cache, and the preparation of its inputs.

use std::sync::Arc;

use flash_kernels::{Buffer, FloatType, Heads, KvRows, Pool, Rope, SPAN_TOKENS, Span};
use flash_kv::LayerBuffers;
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use super::chain::{Operand, run};
use super::norm::StoredNorm;
use super::paged::PagedAttention;
use super::{expect, float_type};
use crate::compute::{AttentionInput, AttentionParams, HeadNorms, Norm, Value};
use crate::kv::LayerKv;
use crate::mlx::kernel::Kernel;

/// A kernel that appends to a contiguous cache, which it shares with MLX's graph, and attends to it.
struct Attention {
    pool: Arc<Pool>,
    kernel_params: flash_kernels::AttentionParams<'static>,
    projections: Projections,
    kv: Arc<Mutex<LayerBuffers>>,
}

/// The projections of new tokens, and the norms and rotation to apply before attention. Inputs: queries, keys; the
/// weights of the norms of queries and keys, if any; values, unless they are stored inside the keys; sinks, if any.
pub(super) struct Projections {
    pub heads: Heads,
    /// Position of the first token.
    pub position: usize,
    norms: Option<[StoredNorm; 2]>,
    has_values: bool,
    rope: Option<Arc<Rope>>,
    sinks: Option<FloatType>,
}

/// Normalized and rotated queries and keys, values, and decoded sinks.
pub(super) struct Prepared<'a> {
    pub queries: Buffer,
    pub keys: Buffer,
    pub values: Option<&'a [f32]>,
    pub sinks: Option<Vec<f32>>,
}

pub(super) fn attend(
    pool: &Arc<Pool>,
    params: &AttentionParams,
    input: AttentionInput<'_>,
    kv: &LayerKv,
) -> Result<Value, Exception> {
    let AttentionParams { n_heads, n_kv_heads, scale, window, .. } = *params;
    let AttentionInput { queries, keys, values, norms, sinks, position } = input;
    let (n_heads, n_kv_heads) = (n_heads as usize, n_kv_heads as usize);
    let head_dim = queries.dim(-1) as usize / n_heads;
    let value_dim = params.value_dim.map_or(head_dim, |value_dim| value_dim as usize);
    let heads = Heads { value_dim, ..Heads::new(n_heads, n_kv_heads, head_dim) };
    let kv_dims = [queries.dim(0), queries.dim(1), (n_kv_heads * head_dim) as i32];
    let fits = |x: &Value| x.shape() == kv_dims;
    expect(fits(keys) && values.is_none_or(fits), "keys and values for each token")?;
    expect(values.is_some() == params.value_dim.is_none(), "values where they are stored")?;
    let mut inputs: Vec<Operand<'_>> = vec![queries.into(), keys.into()];
    let head_norm = |norm: Norm<'_>| StoredNorm::new(norm, heads.head_dim as i32);
    let norms = match norms {
        Some(HeadNorms { queries, keys }) => {
            inputs.extend([queries.weight, keys.weight].map(Operand::from));
            Some([head_norm(queries)?, head_norm(keys)?])
        }
        None => None,
    };
    inputs.extend(values.map(Operand::from));
    if let Some(sinks) = sinks {
        expect(sinks.shape() == [params.n_heads], "a sink for each head")?;
        inputs.push(sinks.into());
    }
    let sinks = sinks.map(float_type).transpose()?;
    let out_shape = [queries.dim(0), queries.dim(1), (n_heads * value_dim) as i32];
    let rope = params.rope.as_ref().map(|rope| Arc::clone(rope.kernel()));
    let projections = Projections { heads, position, norms, rope, has_values: values.is_some(), sinks };
    let (pool, kernel_params) =
        (Arc::clone(pool), flash_kernels::AttentionParams { scale, window, sinks: None });
    let kv = match kv {
        LayerKv::Shared(kv) => Arc::clone(kv),
        LayerKv::Paged(layer) => {
            let node = PagedAttention { pool, kernel_params, projections, layer: Arc::clone(layer) };
            return run(node, &inputs, &out_shape);
        }
        _ => return Err(Exception::custom("the cache of a layer is not shared with the graph")),
    };
    let capacity_tokens = kv.lock().keys.len() / (n_kv_heads * head_dim * size_of::<f32>());
    let end = position + queries.dim(1) as usize;
    let window_spans = end.div_ceil(SPAN_TOKENS) - window_start(window, position) / SPAN_TOKENS;
    let has_room = end <= capacity_tokens
        || capacity_tokens.is_multiple_of(SPAN_TOKENS) && window_spans <= capacity_tokens / SPAN_TOKENS;
    expect(has_room, "room in the cache for each token")?;
    run(Attention { pool, kernel_params, projections, kv }, &inputs, &out_shape)
}

/// Returns the position of the first token that the token at `position` attends to.
pub(super) fn window_start(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

impl Kernel for Attention {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { pool, kernel_params, projections, kv } = self;
        let Projections { heads, position, .. } = *projections;
        let Heads { kv_heads, head_dim, .. } = heads;
        let Prepared { queries, keys: new_keys, values: new_values, sinks } =
            projections.prepare(pool, inputs);
        let mut kv = kv.lock();
        let LayerBuffers { keys, values } = &mut *kv;
        let keys: &mut [f32] = bytemuck::cast_slice_mut(keys.as_mut_slice());
        let mut values: Option<&mut [f32]> =
            values.as_mut().map(|values| bytemuck::cast_slice_mut(values.as_mut_slice()));
        let (head_len, end) = (keys.len() / kv_heads, position + new_keys.len() / (kv_heads * head_dim));
        let capacity_tokens = head_len / head_dim;
        let append = |all: &mut [f32], new: &[f32]| {
            for (position, token) in (position..end).zip(new.chunks_exact(kv_heads * head_dim)) {
                for (head, vector) in token.chunks_exact(head_dim).enumerate() {
                    let start = head * head_len + position % capacity_tokens * head_dim;
                    all[start..start + head_dim].copy_from_slice(vector);
                }
            }
        };
        append(keys, &new_keys);
        if let (Some(values), Some(new)) = (&mut values, new_values) {
            append(values, new);
        }
        // Spans start at multiples of their length, and the memory is a whole number of spans, so each is contiguous.
        let span = |start: usize| {
            let offset = start % capacity_tokens * head_dim;
            Span {
                start,
                n_tokens: SPAN_TOKENS.min(end - start),
                head_tokens: capacity_tokens,
                keys: KvRows::F32(&keys[offset..]),
                values: values.as_deref().map(|values| KvRows::F32(&values[offset..])),
            }
        };
        let first = window_start(kernel_params.window, position) / SPAN_TOKENS * SPAN_TOKENS;
        let spans: Vec<Span<'_>> = (first..end).step_by(SPAN_TOKENS).map(span).collect();
        let kernel_params = flash_kernels::AttentionParams { sinks: sinks.as_deref(), ..*kernel_params };
        let mut attention = flash_kernels::Attention::new(pool, heads, kernel_params, &queries, position);
        attention.add(&spans);
        attention.finish(outputs[0]);
    }
}

impl Projections {
    /// Normalizes and rotates queries and keys.
    pub(super) fn prepare<'a>(&self, pool: &Pool, inputs: &[&'a [u8]]) -> Prepared<'a> {
        let Self { heads: Heads { query_heads, kv_heads, .. }, norms, .. } = *self;
        let floats = |idx: usize| bytemuck::cast_slice::<u8, f32>(inputs[idx]);
        let prepare = |idx: usize, n_heads: usize| {
            let x = floats(idx);
            let Some(norms) = norms else { return self.rotated(pool, n_heads, x) };
            let mut normed = Buffer::new(x.len());
            norms[idx].compute(pool, x, inputs[2 + idx], &mut normed);
            self.rotated(pool, n_heads, &normed)
        };
        let values_idx = if norms.is_some() { 4 } else { 2 };
        let values = self.has_values.then(|| floats(values_idx));
        let sinks = self.sinks.zip(inputs.last()).map(|(float, bytes)| {
            let mut sinks = vec![0.0; query_heads];
            float.decode_into(bytes, &mut sinks).expect("a sink for each head");
            sinks
        });
        Prepared { queries: prepare(0, query_heads), keys: prepare(1, kv_heads), values, sinks }
    }

    /// Returns tokens of `n_heads` heads, rotated.
    fn rotated(&self, pool: &Pool, n_heads: usize, x: &[f32]) -> Buffer {
        let mut rotated = Buffer::new(x.len());
        let Some(rope) = &self.rope else {
            rotated.copy_from_slice(x);
            return rotated;
        };
        rope.rotate_tokens(pool, self.position, [n_heads, self.heads.head_dim], x, &mut rotated);
        rotated
    }
}
