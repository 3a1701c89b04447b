//! Partial attention of a task's query rows over one span.

use std::cell::RefCell;

use super::mix_steps::{MixStep, mix_steps};
use super::partials::Partials;
use super::span::Span;
use super::tasks::Task;
use super::{AttentionParams, Heads, SPAN_TOKENS};
use crate::float::FloatType;
use crate::isa::{FloatInput, Kernels};
use crate::tile::{FloatRows, LaneRows, Lanes, Rows, TILE};

/// Scores are exponentiated in multiples of this length, that of the longest vectors.
const VECTOR: usize = 16;

/// Queries and parameters shared by all tasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queries<'a> {
    pub kernels: &'a Kernels,
    pub heads: Heads,
    pub params: AttentionParams<'a>,
    pub queries: &'a [f32],
    pub position: usize,
}

/// Buffers that a thread reuses between tasks.
#[derive(Default)]
struct Scratch {
    /// Scaled queries of the current task: `[tokens, heads, head_dim]`.
    queries: Vec<f32>,
    numbers: Vec<f32>,
    scores: Vec<f32>,
    lanes: Vec<Lanes>,
    acc: Vec<Lanes>,
    spare: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Queries<'_> {
    /// Computes the partial softmax of a task over a span. The thread must have called [`Self::gather_queries`] for the
    /// task.
    pub(super) fn span(&self, task: &Task, span: &Span<'_>, out: &mut Partials<'_>) {
        let Task { kv_head, ref tokens, ref heads } = *task;
        let seen_by = |token: usize| {
            let end = self.position + token + 1;
            let start = self.params.window.map_or(0, |window| end.saturating_sub(window));
            let place = |at: usize| at.clamp(span.start, span.start + span.n_tokens) - span.start;
            place(start)..place(end)
        };
        // Later rows see more: tokens beyond the last row's end are seen by none.
        let n_tokens = tokens.clone().last().map_or(0, |last| seen_by(last).end);
        if n_tokens == 0 || tokens.clone().all(|token| seen_by(token).is_empty()) {
            out.sum.fill(0.0);
            return;
        }
        let span = &Span { n_tokens, ..*span };
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { queries, numbers, scores, lanes, acc, spare } = scratch;
            let (n_heads, Heads { head_dim, .. }) = (heads.len(), self.heads);
            let n_rows = tokens.len() * n_heads;
            scores.resize(n_rows * SPAN_TOKENS, 0.0);
            lanes.resize(head_dim.max(SPAN_TOKENS), Lanes::ZERO);
            acc.resize(n_rows, Lanes::ZERO);

            let dequantize = self.kernels.dequantize;
            let keys = span.head(span.keys, kv_head, head_dim, dequantize, numbers);
            self.score(keys, queries, lanes, acc, spare, scores);
            for (row, scores) in scores.chunks_exact_mut(SPAN_TOKENS).enumerate() {
                let seen = seen_by(tokens.start + row / n_heads);
                (out.max[row], out.sum[row]) = if seen.is_empty() {
                    (f32::NEG_INFINITY, 0.0)
                } else {
                    // Fill up to whole vectors with scores that contribute nothing.
                    let end = seen.end.next_multiple_of(VECTOR).min(SPAN_TOKENS);
                    scores[seen.end..end].fill(f32::NEG_INFINITY);
                    (self.kernels.softmax_numerators)(&mut scores[seen.start..end])
                };
            }
            let values = match span.values {
                Some(values) => span.head(values, kv_head, head_dim, dequantize, numbers),
                None => keys,
            };
            let steps = mix_steps([tokens.len(), n_heads], |token| seen_by(tokens.start + token));
            self.mix(values, &steps, scores, lanes, acc, out.mixture);
        });
    }

    /// Copies the queries of a task into this thread's scratch, scaled and contiguous.
    pub(super) fn gather_queries(&self, task: &Task) {
        let Heads { query_heads, head_dim, .. } = self.heads;
        let Task { kv_head, tokens, heads } = task;
        let row_len = query_heads * head_dim;
        let first = (kv_head * self.heads.group() + heads.start) * head_dim;
        SCRATCH.with_borrow_mut(|Scratch { queries, .. }| {
            queries.clear();
            for row in self.queries[tokens.start * row_len..tokens.end * row_len].chunks_exact(row_len) {
                let row = &row[first..][..heads.len() * head_dim];
                queries.extend(row.iter().map(|query| query * self.params.scale));
            }
        });
    }

    /// Computes the scores of the rows of `queries` against `keys`, `[tokens, head_dim]`: `[rows, SPAN_TOKENS]`.
    fn score(
        &self,
        keys: &[f32],
        queries: &[f32],
        lanes: &mut [Lanes],
        acc: &mut [Lanes],
        spare: &mut Vec<u8>,
        scores: &mut [f32],
    ) {
        let head_dim = self.heads.head_dim;
        let lanes = &mut lanes[..head_dim];
        let queries = FloatInput { values: queries, k: head_dim };
        let n_tokens = keys.len() / head_dim;
        let tiles = Rows::tiles(bytemuck::cast_slice(keys), head_dim * size_of::<f32>(), 0..n_tokens, spare);
        for (tile_idx, rows) in tiles.enumerate() {
            (self.kernels.decode)(FloatRows::new(rows, FloatType::F32), 0..head_dim, lanes);
            acc.fill(Lanes::ZERO);
            (self.kernels.multiply_lanes)((&*lanes).into(), 0, queries, acc);
            for (scores, acc) in scores.chunks_exact_mut(SPAN_TOKENS).zip(&*acc) {
                scores[tile_idx * TILE..][..TILE].copy_from_slice(&acc.0);
            }
        }
    }

    /// Computes the weighted sums of `values`, the last `value_dim` columns of `[tokens, head_dim]`: `out` is
    /// `[rows, value_dim]`.
    ///
    /// Rows are `[tokens, n_heads]`. Each row is multiplied only with the values that `steps` lists for it, because a
    /// zero weight times an infinite value that the row does not see would be NaN.
    fn mix(
        &self,
        values: &[f32],
        steps: &[MixStep],
        scores: &[f32],
        lanes: &mut [Lanes],
        acc: &mut [Lanes],
        out: &mut [f32],
    ) {
        let Heads { head_dim, value_dim, .. } = self.heads;
        let lanes = &mut lanes[..values.len() / head_dim];
        for start in (0..value_dim).step_by(TILE) {
            let (width, column) = (TILE.min(value_dim - start), head_dim - value_dim + start);
            let columns = if width == TILE {
                LaneRows::columns(values, head_dim, column)
            } else {
                for (lanes, row) in lanes.iter_mut().zip(values.chunks_exact(head_dim)) {
                    lanes.0[..width].copy_from_slice(&row[column..]);
                    lanes.0[width..].fill(0.0);
                }
                LaneRows::from(&*lanes)
            };
            acc.fill(Lanes::ZERO);
            for MixStep { rows, seen } in steps {
                let scores = FloatInput { values: &scores[rows.start * SPAN_TOKENS..], k: SPAN_TOKENS };
                let columns = columns.range(seen.clone());
                (self.kernels.multiply_lanes)(columns, seen.start, scores, &mut acc[rows.clone()]);
            }
            for (out, acc) in out.chunks_exact_mut(value_dim).zip(&*acc) {
                out[start..start + width].copy_from_slice(&acc.0[..width]);
            }
        }
    }
}
