//! Attention: the kernel, and the preparation of its inputs. How a segment attends depends on its cache.

mod contiguous;
mod paged;

use std::ops::Range;
use std::sync::Arc;

use flash_kernels::{Buffer, FloatType, Heads, Pool, Rope, SPAN_TOKENS};
use flash_kv::LayerBuffers;
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use super::chain::{Operand, run};
use super::norm::StoredNorm;
use super::{expect, float_type};
use crate::compute::{AttentionInput, AttentionParams, HeadNorms, Norm, Segment, Value, row_ranges};
use crate::kv::{LayerKv, PagedLayer};
use crate::mlx::kernel::Kernel;

/// A kernel that appends the new tokens of each segment to its cache, which is shared with MLX's graph, and attends to
/// it. Inputs: those of [`Projections`].
struct Attention {
    pool: Arc<Pool>,
    projections: Projections,
    scale: f32,
    window: Option<usize>,
    segments: Vec<SharedSegment>,
}

/// A segment with its cache.
struct SharedSegment {
    position: usize,
    n_rows: usize,
    kv: SharedKv,
}

enum SharedKv {
    Contiguous(Arc<Mutex<LayerBuffers>>),
    Paged(Arc<Mutex<PagedLayer>>),
}

/// The projections of new tokens, and the norms and rotation to apply before attention. Inputs: queries, keys; the
/// weights of the norms of queries and keys, if any; values, unless they are stored inside the keys; sinks, if any.
struct Projections {
    heads: Heads,
    /// Position of each row.
    positions: Vec<usize>,
    norms: Option<[StoredNorm; 2]>,
    has_values: bool,
    rope: Option<Arc<Rope>>,
    sinks: Option<FloatType>,
}

/// Normalized and rotated queries and keys of all rows, values, and decoded sinks.
struct Prepared<'a> {
    queries: Buffer,
    keys: Buffer,
    values: Option<&'a [f32]>,
    sinks: Option<Vec<f32>>,
}

/// The new tokens of a segment, and how they attend.
#[derive(Clone, Copy)]
struct NewTokens<'a> {
    pool: &'a Pool,
    heads: Heads,
    params: flash_kernels::AttentionParams<'a>,
    position: usize,
    /// `[n, query_heads, head_dim]`.
    queries: &'a [f32],
    /// `[n, kv_heads, head_dim]`, and values, too, unless they are stored inside the keys.
    keys: &'a [f32],
    values: Option<&'a [f32]>,
}

pub(super) fn attend(
    pool: &Arc<Pool>,
    params: &AttentionParams,
    input: AttentionInput<'_>,
    segments: &[Segment<'_>],
) -> Result<Value, Exception> {
    let AttentionParams { n_heads, n_kv_heads, scale, window, .. } = *params;
    let AttentionInput { queries, keys, values, norms, sinks } = input;
    let (n_heads, n_kv_heads) = (n_heads as usize, n_kv_heads as usize);
    let head_dim = queries.dim(-1) as usize / n_heads;
    let value_dim = params.value_dim.map_or(head_dim, |value_dim| value_dim as usize);
    let heads = Heads { value_dim, ..Heads::new(n_heads, n_kv_heads, head_dim) };
    let kv_dims = [queries.dim(0), queries.dim(1), (n_kv_heads * head_dim) as i32];
    let fits = |x: &Value| x.shape() == kv_dims;
    expect(fits(keys) && values.is_none_or(fits), "keys and values for each token")?;
    expect(values.is_some() == params.value_dim.is_none(), "values where they are stored")?;
    let n_rows: usize = segments.iter().map(|segment| segment.n_rows).sum();
    expect(n_rows == queries.dim(1) as usize, "segment for each row")?;
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
    let projections = Projections {
        heads,
        positions: segments.iter().flat_map(positions).collect(),
        norms,
        has_values: values.is_some(),
        rope: params.rope.as_ref().map(|rope| Arc::clone(rope.kernel())),
        sinks: sinks.map(float_type).transpose()?,
    };
    let segments = segments.iter().map(|segment| SharedSegment::new(segment, heads, window));
    let segments = segments.collect::<Result<_, _>>()?;
    let node = Attention { pool: Arc::clone(pool), projections, scale, window, segments };
    let out_shape = [queries.dim(0), queries.dim(1), (n_heads * value_dim) as i32];
    run(node, &inputs, &out_shape)
}

/// Returns the positions of a segment's rows.
fn positions(segment: &Segment<'_>) -> Range<usize> {
    segment.position..segment.position + segment.n_rows
}

/// Returns the position of the first token that the token at `position` attends to.
fn window_start(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

impl SharedSegment {
    /// # Errors
    /// If the cache is not shared with the graph, or has no room for the new tokens.
    fn new(segment: &Segment<'_>, heads: Heads, window: Option<usize>) -> Result<Self, Exception> {
        let kv = match &*segment.kv {
            LayerKv::Shared(kv) => {
                let capacity_tokens =
                    kv.lock().keys.len() / (heads.kv_heads * heads.head_dim * size_of::<f32>());
                let Range { start, end } = positions(segment);
                let window_spans = end.div_ceil(SPAN_TOKENS) - window_start(window, start) / SPAN_TOKENS;
                let has_room = end <= capacity_tokens
                    || capacity_tokens.is_multiple_of(SPAN_TOKENS)
                        && window_spans <= capacity_tokens / SPAN_TOKENS;
                expect(has_room, "room in the cache for each token")?;
                SharedKv::Contiguous(Arc::clone(kv))
            }
            LayerKv::Paged(layer) => SharedKv::Paged(Arc::clone(layer)),
            _ => return Err(Exception::custom("the cache of a layer is not shared with the graph")),
        };
        Ok(Self { position: segment.position, n_rows: segment.n_rows, kv })
    }
}

impl Kernel for Attention {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { pool, projections, scale, window, segments } = self;
        let heads = projections.heads;
        let Prepared { queries, keys, values, sinks } = projections.prepare(pool, inputs);
        let params =
            flash_kernels::AttentionParams { scale: *scale, window: *window, sinks: sinks.as_deref() };
        let rows = row_ranges(segments.iter().map(|segment| segment.n_rows));
        for (segment, Range { start, end }) in segments.iter().zip(rows) {
            let of = |len: usize| start * len..end * len;
            let (query_len, key_len) = (heads.query_heads * heads.head_dim, heads.kv_heads * heads.head_dim);
            let new = NewTokens {
                pool,
                heads,
                params,
                position: segment.position,
                queries: &queries[of(query_len)],
                keys: &keys[of(key_len)],
                values: values.map(|values| &values[of(key_len)]),
            };
            let out = &mut outputs[0][of(heads.query_heads * heads.value_dim)];
            match &segment.kv {
                SharedKv::Contiguous(kv) => contiguous::attend(new, &mut kv.lock(), out),
                SharedKv::Paged(layer) => paged::attend(new, &mut layer.lock(), out),
            }
        }
    }
}

impl Projections {
    /// Normalizes and rotates queries and keys.
    fn prepare<'a>(&self, pool: &Pool, inputs: &[&'a [u8]]) -> Prepared<'a> {
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
        rope.rotate_tokens(pool, &self.positions, [n_heads, self.heads.head_dim], x, &mut rotated);
        rotated
    }
}
