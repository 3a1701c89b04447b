//! Causal attention over a KV cache, contiguous or in pages.
//!
//! Tokens are split into spans at fixed positions, as in flash-decoding. Each span yields a maximum, a sum and a
//! weighted sum of values per row, which are merged in the order of the spans. The result has the same bits whichever
//! thread computes a span and whichever other rows are in the batch.

mod mix_steps;
mod partials;
mod queries;
mod span;
mod tasks;

use std::ops::Range;

pub(crate) use self::partials::axpby;
use self::partials::{Partials, PartialsView, finish};
use self::queries::Queries;
#[cfg(target_arch = "x86_64")]
pub(crate) use self::span::CodedRows;
pub(crate) use self::span::{Dequantize, dequantize};
pub use self::span::{KvCodes, KvRows, Span};
use self::tasks::{Task, Tasks};
use crate::buffer::Buffer;
use crate::pool::Pool;

/// Tokens per span: the scores of a block of rows take 32 KiB, the keys or values of one head as much or twice that.
pub const SPAN_TOKENS: usize = 128;

/// Target number of tasks per thread.
const TASKS_PER_THREAD: usize = 4;

/// Tokens per part when the weighted sums are divided by the softmax denominators.
const FINISH_TOKENS: usize = 16;

/// Multiply-adds below which one thread works alone: they take about as long as waking another thread.
const PARALLEL_MIN: usize = 128 << 10;

/// Partial results (in `f32`) from which the merge is parallel; below that, reading them from other cores' caches costs
/// more.
const MERGE_PARALLEL_MIN: usize = 256 << 10;

/// Head counts and dimensions of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, a multiple of `kv_heads`: each KV head is shared by a group of query heads.
    pub query_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Dimension of a query or key head.
    pub head_dim: usize,
    /// Dimension of a value head: `head_dim`, or less where a value is the last numbers of its key.
    pub value_dim: usize,
}

impl Heads {
    /// Returns heads whose values have the dimension of their keys.
    pub const fn new(query_heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { query_heads, kv_heads, head_dim, value_dim: head_dim }
    }

    /// Query heads per KV head.
    const fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}

/// Softmax scale, sliding window and sink logits of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams<'a> {
    /// Factor applied to the scores.
    pub scale: f32,
    /// Sliding window in tokens, including the query's own; `None` for full causal attention.
    pub window: Option<usize>,
    /// `[query_heads]`: sink logit of each head. It adds to the softmax denominator once per query, has no value, and
    /// is not multiplied by `scale`.
    pub sinks: Option<&'a [f32]>,
}

/// Contiguous keys and values of one layer, each `[kv_heads, capacity_tokens, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct KeysValues<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values; `None` if a value is the last [`Heads::value_dim`] numbers of its key (latent attention).
    pub values: Option<&'a [f32]>,
}

impl<'a> KeysValues<'a> {
    /// Returns the spans of the tokens before `end`.
    ///
    /// # Panics
    /// If keys and values differ in shape or hold fewer than `end` tokens.
    pub fn spans(self, heads: Heads, end: usize) -> Vec<Span<'a>> {
        let Self { keys, values } = self;
        assert!(values.is_none_or(|values| keys.len() == values.len()), "keys and values have one shape");
        let head_tokens = keys.len() / (heads.kv_heads * heads.head_dim);
        assert!(end <= head_tokens, "{end} tokens wanted, {head_tokens} held");
        let span = |start: usize| Span {
            start,
            n_tokens: SPAN_TOKENS.min(end - start),
            head_tokens,
            keys: KvRows::F32(&keys[start * heads.head_dim..]),
            values: values.map(|values| KvRows::F32(&values[start * heads.head_dim..])),
        };
        (0..end).step_by(SPAN_TOKENS).map(span).collect()
    }
}

/// Computes causal attention, `softmax(q · Kᵀ · scale) · V`, with sinks in the softmax denominator.
///
/// `queries`: `[n, query_heads, head_dim]` of the tokens from `position` on, whose keys and values are already in `kv`;
/// `out`: `[n, query_heads, value_dim]`.
///
/// # Panics
/// If the lengths do not fit the heads, or `kv` holds fewer than `position + n` tokens.
pub fn attend(
    pool: &Pool,
    heads: Heads,
    params: AttentionParams<'_>,
    queries: &[f32],
    kv: KeysValues<'_>,
    position: usize,
    out: &mut [f32],
) {
    let mut attention = Attention::new(pool, heads, params, queries, position);
    attention.add(&kv.spans(heads, position + attention.tasks.n));
    attention.finish(out);
}

/// Attention of a batch of queries, accumulated over spans of the KV cache.
#[derive(Debug)]
pub struct Attention<'a> {
    pool: &'a Pool,
    rows: Queries<'a>,
    tasks: Tasks,
    /// [`Partials`] of each task, merged over the spans so far.
    totals: Buffer,
    /// End position of the last span added.
    end: usize,
}

impl<'a> Attention<'a> {
    /// Starts attention for `queries`, `[n, query_heads, head_dim]`, of the tokens from `position` on.
    ///
    /// # Panics
    /// If `queries` is not whole rows, the query heads are not a multiple of the KV heads, the sinks are not one per
    /// query head, or values are longer than keys.
    pub fn new(
        pool: &'a Pool,
        heads: Heads,
        params: AttentionParams<'a>,
        queries: &'a [f32],
        position: usize,
    ) -> Self {
        let Heads { query_heads, kv_heads, head_dim, value_dim } = heads;
        let row_len = query_heads * head_dim;
        assert!(
            query_heads.is_multiple_of(kv_heads) && queries.len().is_multiple_of(row_len),
            "whole heads and rows"
        );
        assert!(value_dim <= head_dim, "values of {value_dim} numbers, keys of {head_dim}");
        assert!(params.sinks.is_none_or(|sinks| sinks.len() == query_heads), "one sink per query head");
        let tasks = Tasks::new(heads, queries.len() / row_len, pool.n_threads());
        let mut totals = Buffer::new(tasks.len() * tasks.partial_len);
        for (idx, total) in totals.chunks_exact_mut(tasks.partial_len.max(1)).enumerate() {
            let Task { kv_head, heads: Range { start, end }, .. } = tasks.get(idx);
            let first = kv_head * heads.group();
            let sinks = params.sinks.map(|sinks| &sinks[first + start..first + end]);
            Partials::new(total, value_dim).init(sinks);
        }
        let rows = Queries { kernels: pool.kernels(), heads, params, queries, position };
        Self { pool, rows, tasks, totals, end: 0 }
    }

    /// Attends to the tokens of `spans`, which must follow those added before. Positions between spans are skipped.
    ///
    /// # Panics
    /// If the spans are out of order, or their lengths do not fit the heads.
    pub fn add(&mut self, spans: &[Span<'_>]) {
        let heads = self.rows.heads;
        for span in spans {
            span.check(heads);
            assert!(span.start >= self.end, "a span at {} behind {}", span.start, self.end);
            self.end = span.start + span.n_tokens;
        }
        let Tasks { n, .. } = self.tasks;
        if n == 0 {
            return;
        }
        let Heads { query_heads, head_dim, value_dim, .. } = heads;
        let n_tasks = self.tasks.len();
        let n_seen: usize = spans.iter().map(|span| span.n_tokens).sum();
        let is_small = n * query_heads * (head_dim + value_dim) * n_seen < PARALLEL_MIN;
        // With few rows there are fewer tasks than threads, so the spans are divided among threads too.
        let spans_at_once = (TASKS_PER_THREAD * self.pool.n_threads()).div_ceil(n_tasks);
        if is_small || spans_at_once == 1 {
            self.add_by_task(spans, is_small);
        } else {
            spans.chunks(spans_at_once).for_each(|spans| self.add_by_span(spans));
        }
    }

    /// Runs one part per task, which attends to the spans in order.
    fn add_by_task(&mut self, spans: &[Span<'_>], is_small: bool) {
        let Self { pool, rows, tasks, totals, .. } = self;
        let (partial_len, value_dim) = (tasks.partial_len, rows.heads.value_dim);
        let attend = |task_idx: usize, total: &mut [f32]| {
            let mut partial = Buffer::new(partial_len);
            let task = tasks.get(task_idx);
            rows.gather_queries(&task);
            for span in spans {
                rows.span(&task, span, &mut Partials::new(&mut partial, value_dim));
                let seen = PartialsView::new(&partial, value_dim);
                Partials::new(total, value_dim).merge(&seen, rows.kernels);
            }
        };
        if is_small {
            totals.chunks_exact_mut(partial_len).enumerate().for_each(|(idx, total)| attend(idx, total));
        } else {
            let len = totals.len();
            pool.for_columns(totals, len, partial_len, |mut part| {
                attend(part.range().start / partial_len, part.row_mut(0));
            });
        }
    }

    /// Runs one part per task and span, then merges the partial results.
    fn add_by_span(&mut self, spans: &[Span<'_>]) {
        let Self { pool, rows, tasks, totals, .. } = self;
        let (partial_len, value_dim) = (tasks.partial_len, rows.heads.value_dim);
        let n_tasks = tasks.len();
        let mut partials = Buffer::new(spans.len() * totals.len());
        let len = partials.len();
        pool.for_columns(&mut partials, len, partial_len, |mut part| {
            let idx = part.range().start / partial_len;
            let (span, task) = (&spans[idx / n_tasks], tasks.get(idx % n_tasks));
            rows.gather_queries(&task);
            let mut partial = Partials::new(part.row_mut(0), value_dim);
            rows.span(&task, span, &mut partial);
        });
        let merge = |task_idx: usize, total: &mut [f32]| {
            for partials in partials.chunks_exact(len / spans.len()) {
                let partial = &partials[task_idx * partial_len..][..partial_len];
                Partials::new(total, value_dim).merge(&PartialsView::new(partial, value_dim), rows.kernels);
            }
        };
        if len < MERGE_PARALLEL_MIN {
            totals.chunks_exact_mut(partial_len).enumerate().for_each(|(idx, total)| merge(idx, total));
        } else {
            let len = totals.len();
            pool.for_columns(totals, len, partial_len, |mut part| {
                merge(part.range().start / partial_len, part.row_mut(0));
            });
        }
    }

    /// Writes the result to `out`, `[n, query_heads, value_dim]`. Rows that saw no token become NaN, or zero where
    /// there are sinks.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn finish(self, out: &mut [f32]) {
        let (heads, tasks) = (self.rows.heads, self.tasks);
        let partial_len = tasks.partial_len;
        let (len, row_len) = (out.len(), heads.query_heads * heads.value_dim);
        assert_eq!(tasks.n * row_len, len, "queries and out have the same number of rows");
        self.pool.for_columns(out, len, FINISH_TOKENS * row_len, |mut part| {
            let first = part.range().start / row_len;
            for (token, out) in (first..).zip(part.row_mut(0).chunks_exact_mut(row_len)) {
                for (head, out) in out.chunks_exact_mut(heads.value_dim).enumerate() {
                    let (task_idx, row) = tasks.place(token, head);
                    finish(&self.totals[task_idx * partial_len..][..partial_len], row, out);
                }
            }
        });
    }
}
