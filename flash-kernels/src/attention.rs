//! Causal attention over a KV cache in memory.
//!
//! The tokens are cut in spans at fixed positions. For each span a row has a maximum, a sum and a mixture of values of
//! its own, and they are merged in the order of the spans. Who computes a span does not matter, and neither does what
//! other rows there are: each row has the same bits in a batch and alone (the idea is flash-decoding's).

use std::cell::RefCell;
use std::ops::Range;

use crate::float::FloatType;
use crate::isa::{FloatInput, Kernels};
use crate::pool::Pool;
use crate::tile::{FloatRows, Lanes, Rows, TILE};

/// Tokens of a span: its scores for [`ROWS_BLOCK`] rows take 64 KiB.
const SPAN: usize = 256;

/// Rows of queries that are computed together.
const ROWS_BLOCK: usize = 64;

/// Tasks that each thread should find.
const TASKS_PER_THREAD: usize = 4;

/// The heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries, a multiple of `kv_heads`: each group of them shares a head of keys and values.
    pub query_heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers in a query, key or value of one head.
    pub head_dim: usize,
}

impl Heads {
    /// Query heads that share a KV head.
    const fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}

/// Keys and values of one layer, each `[kv_heads, capacity_tokens, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct KeysValues<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// Attends from each query to all tokens up to its own: `softmax(q · Kᵀ · scale) · V`.
///
/// `queries`, `out`: `[n, query_heads, head_dim]`, of the tokens from `position` on, whose keys and values are in `kv`
/// already.
///
/// # Panics
/// If the lengths do not fit the heads, or `kv` has no room for `position + n` tokens.
pub fn attend(
    pool: &Pool,
    heads: Heads,
    scale: f32,
    queries: &[f32],
    kv: KeysValues<'_>,
    position: usize,
    out: &mut [f32],
) {
    let Heads { query_heads, kv_heads, head_dim } = heads;
    let row_len = query_heads * head_dim;
    assert!(
        query_heads.is_multiple_of(kv_heads) && queries.len().is_multiple_of(row_len),
        "whole heads and rows"
    );
    assert_eq!(queries.len(), out.len(), "queries and out have one shape");
    assert_eq!(kv.keys.len(), kv.values.len(), "keys and values have one shape");
    let n = queries.len() / row_len;
    let capacity_tokens = kv.keys.len() / (kv_heads * head_dim);
    assert!(position + n <= capacity_tokens, "{position} + {n} tokens of {capacity_tokens}");
    if n == 0 {
        return;
    }
    let attention =
        Attention { kernels: pool.kernels(), heads, scale, queries, kv, capacity_tokens, position, n };
    let block_tokens = (ROWS_BLOCK / heads.group()).max(1);
    let n_blocks = n.div_ceil(block_tokens);
    let n_spans = (position + n).div_ceil(SPAN);
    // Few rows leave threads without work unless they share the spans, too.
    let spans_at_once = (TASKS_PER_THREAD * pool.n_threads()).div_ceil(kv_heads * n_blocks).min(n_spans);

    let block_rows = block_tokens.min(n) * heads.group();
    let partial_len = block_rows * (head_dim + 2);
    let n_tasks = kv_heads * n_blocks;
    let mut totals = vec![0.0; n_tasks * partial_len];
    let mut partials = vec![0.0; spans_at_once * n_tasks * partial_len];
    for first_span in (0..n_spans).step_by(spans_at_once) {
        let spans = first_span..n_spans.min(first_span + spans_at_once);
        let partials = &mut partials[..spans.len() * n_tasks * partial_len];
        let len = partials.len();
        pool.for_columns(partials, len, partial_len, |mut part| {
            let idx = part.range().start / partial_len;
            let (span_idx, task) = (spans.start + idx / n_tasks, idx % n_tasks);
            let tokens = task % n_blocks * block_tokens..n.min((task % n_blocks + 1) * block_tokens);
            let mut partial = Partials::of(part.row_mut(0), head_dim);
            attention.span(task / n_blocks, tokens, span_idx * SPAN, &mut partial);
        });
        for (span_idx, partials) in spans.zip(partials.chunks_exact_mut(n_tasks * partial_len)) {
            for (total, partial) in
                totals.chunks_exact_mut(partial_len).zip(partials.chunks_exact_mut(partial_len))
            {
                let (total, partial) = (Partials::of(total, head_dim), Partials::of(partial, head_dim));
                if span_idx == 0 { total.set(&partial) } else { total.merge(&partial) }
            }
        }
    }
    for (task, total) in totals.chunks_exact_mut(partial_len).enumerate() {
        let (kv_head, block) = (task / n_blocks, task % n_blocks);
        let tokens = block * block_tokens..n.min((block + 1) * block_tokens);
        Partials::of(total, head_dim).finish(
            heads,
            kv_head,
            &mut out[tokens.start * row_len..tokens.end * row_len],
        );
    }
}

/// What some rows know of some spans.
struct Partials<'a> {
    /// `[rows]`: the greatest score.
    max: &'a mut [f32],
    /// `[rows]`: the sum of e^(score − max).
    sum: &'a mut [f32],
    /// `[rows, head_dim]`: the sum of e^(score − max) · value.
    mixture: &'a mut [f32],
}

impl<'a> Partials<'a> {
    fn of(buffer: &'a mut [f32], head_dim: usize) -> Self {
        let n_rows = buffer.len() / (head_dim + 2);
        let (max, rest) = buffer.split_at_mut(n_rows);
        let (sum, mixture) = rest.split_at_mut(n_rows);
        Self { max, sum, mixture }
    }

    fn set(self, other: &Self) {
        self.max.copy_from_slice(other.max);
        self.sum.copy_from_slice(other.sum);
        self.mixture.copy_from_slice(other.mixture);
    }

    /// Adds what the rows know of the next span; rows that come before it know nothing of it.
    fn merge(self, next: &Self) {
        let head_dim = self.mixture.len() / self.max.len();
        let mixtures = self.mixture.chunks_exact_mut(head_dim).zip(next.mixture.chunks_exact(head_dim));
        for (row, (mixture, next_mixture)) in mixtures.enumerate() {
            if next.sum[row] == 0.0 {
                continue;
            }
            let max = if next.max[row] > self.max[row] { next.max[row] } else { self.max[row] };
            let [old, new] = [self.max[row], next.max[row]].map(|m| crate::elementwise::exp(m - max));
            self.max[row] = max;
            self.sum[row] = self.sum[row] * old + next.sum[row] * new;
            for (value, next) in mixture.iter_mut().zip(next_mixture) {
                *value = *value * old + next * new;
            }
        }
    }

    /// Writes the rows of the tokens of `out`, `[tokens, query_heads, head_dim]`, for the heads of `kv_head`.
    fn finish(self, heads: Heads, kv_head: usize, out: &mut [f32]) {
        let (group, head_dim) = (heads.group(), heads.head_dim);
        let columns = kv_head * group * head_dim..(kv_head + 1) * group * head_dim;
        let outs = out.chunks_exact_mut(heads.query_heads * head_dim);
        let outs = outs.flat_map(|row| row[columns.clone()].chunks_exact_mut(head_dim));
        for (row, (out, mixture)) in outs.zip(self.mixture.chunks_exact(head_dim)).enumerate() {
            for (out, value) in out.iter_mut().zip(mixture) {
                // Adding zero makes zeros positive, however many zeros were added before.
                *out = value / self.sum[row] + 0.0;
            }
        }
    }
}

/// What all tasks share.
struct Attention<'a> {
    kernels: &'static Kernels,
    heads: Heads,
    scale: f32,
    queries: &'a [f32],
    kv: KeysValues<'a>,
    capacity_tokens: usize,
    position: usize,
    n: usize,
}

/// Memory that a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    lanes: Vec<Lanes>,
    acc: Vec<Lanes>,
    spare: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Attention<'_> {
    /// Computes what the rows of `tokens` (of the new ones) know of the span from `start` on, for one KV head.
    fn span(&self, kv_head: usize, tokens: Range<usize>, start: usize, out: &mut Partials<'_>) {
        let end = (start + SPAN).min(self.position + tokens.end).min(self.position + self.n);
        if end <= start {
            out.sum.fill(0.0);
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let (group, head_dim) = (self.heads.group(), self.heads.head_dim);
            let n_rows = tokens.len() * group;
            self.gather_queries(kv_head, tokens.clone(), &mut scratch.queries);
            let head = kv_head * self.capacity_tokens * head_dim;
            let range = head + start * head_dim..head + end * head_dim;
            self.score(&self.kv.keys[range.clone()], n_rows, scratch);
            for (row, scores) in scratch.scores.chunks_exact_mut(SPAN).enumerate() {
                // The tokens up to the row's own.
                let seen = (self.position + tokens.start + row / group + 1).clamp(start, end) - start;
                (out.max[row], out.sum[row]) = if seen == 0 {
                    (f32::NEG_INFINITY, 0.0)
                } else {
                    (self.kernels.soften)(&mut scores[..seen])
                };
                scores[seen..].fill(0.0);
            }
            self.mix(&self.kv.values[range], n_rows, scratch, &mut *out.mixture);
        });
    }

    /// The queries of one KV head, scaled: `[tokens, group, head_dim]`.
    fn gather_queries(&self, kv_head: usize, tokens: Range<usize>, out: &mut Vec<f32>) {
        let Heads { query_heads, head_dim, .. } = self.heads;
        let (row_len, width) = (query_heads * head_dim, self.heads.group() * head_dim);
        out.clear();
        for row in self.queries[tokens.start * row_len..tokens.end * row_len].chunks_exact(row_len) {
            out.extend(row[kv_head * width..][..width].iter().map(|query| query * self.scale));
        }
    }

    /// Scores of the rows for all `keys`, `[tokens, head_dim]`: `[rows, SPAN]`.
    fn score(&self, keys: &[f32], n_rows: usize, scratch: &mut Scratch) {
        let Scratch { queries, scores, lanes, acc, spare } = scratch;
        let head_dim = self.heads.head_dim;
        scores.resize(n_rows * SPAN, 0.0);
        lanes.resize(head_dim, Lanes::ZERO);
        let queries = FloatInput { values: queries, k: head_dim };
        let n_tokens = keys.len() / head_dim;
        let tiles = Rows::tiles(bytemuck::cast_slice(keys), head_dim * size_of::<f32>(), 0..n_tokens, spare);
        for (tile_idx, rows) in tiles.enumerate() {
            (self.kernels.decode)(FloatRows { rows, float: FloatType::F32 }, 0..head_dim, lanes);
            acc.clear();
            acc.resize(n_rows, Lanes::ZERO);
            (self.kernels.multiply_lanes)(lanes, 0, queries, acc);
            for (scores, acc) in scores.chunks_exact_mut(SPAN).zip(&*acc) {
                scores[tile_idx * TILE..][..TILE].copy_from_slice(&acc.0);
            }
        }
    }

    /// Mixes `values`, `[tokens, head_dim]`, by the scores: `out` is `[rows, head_dim]`.
    fn mix(&self, values: &[f32], n_rows: usize, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch { scores, lanes, acc, .. } = scratch;
        let head_dim = self.heads.head_dim;
        lanes.resize(values.len() / head_dim, Lanes::ZERO);
        for start in (0..head_dim).step_by(TILE) {
            let width = TILE.min(head_dim - start);
            for (lanes, value) in lanes.iter_mut().zip(values.chunks_exact(head_dim)) {
                lanes.0[..width].copy_from_slice(&value[start..start + width]);
                lanes.0[width..].fill(0.0);
            }
            acc.clear();
            acc.resize(n_rows, Lanes::ZERO);
            (self.kernels.multiply_lanes)(lanes, 0, FloatInput { values: scores, k: SPAN }, acc);
            for (out, acc) in out.chunks_exact_mut(head_dim).zip(&*acc) {
                out[start..start + width].copy_from_slice(&acc.0[..width]);
            }
        }
    }
}
