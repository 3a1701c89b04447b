//! Partial softmax results over spans, and their merge (online softmax).

use crate::elementwise::exp;
use crate::isa::Kernels;

/// Unnormalized softmax of some rows over some tokens.
pub(super) struct Partials<'a> {
    /// `[rows]`: maximum score.
    pub max: &'a mut [f32],
    /// `[rows]`: sum of e^(score − max). Zero if the row has no sink and no token with a score above −∞; `max` and
    /// `mixture` are then meaningless.
    pub sum: &'a mut [f32],
    /// `[rows, value_dim]`: sum of e^(score − max) · value.
    pub mixture: &'a mut [f32],
}

impl<'a> Partials<'a> {
    /// Length of one row, in `f32`.
    pub(super) const fn row_len(value_dim: usize) -> usize {
        value_dim + 2
    }

    /// Interprets `buffer` as partials of as many rows as fit.
    pub(super) fn new(buffer: &'a mut [f32], value_dim: usize) -> Self {
        let n_rows = buffer.len() / Self::row_len(value_dim);
        let (max, rest) = buffer.split_at_mut(n_rows);
        let (sum, mixture) = rest.split_at_mut(n_rows);
        Self { max, sum, mixture }
    }

    /// Initializes the accumulator with the sinks, if any. Rows are `[tokens, group]`, sinks `[group]`.
    ///
    /// Sinks enter the accumulator rather than the spans, so each counts once however many spans there are.
    pub(super) fn init(self, sinks: Option<&[f32]>) {
        self.mixture.fill(0.0);
        let Some(sinks) = sinks else {
            self.max.fill(f32::NEG_INFINITY);
            self.sum.fill(0.0);
            return;
        };
        let sinks = sinks.iter().cycle();
        for ((max, sum), sink) in self.max.iter_mut().zip(self.sum).zip(sinks) {
            *max = *sink;
            // A sink of −∞ contributes nothing.
            *sum = if *sink == f32::NEG_INFINITY { 0.0 } else { 1.0 };
        }
    }

    /// Merges the partials of the next tokens into these.
    pub(super) fn merge(self, next: &PartialsView<'_>, kernels: &Kernels) {
        let value_dim = self.mixture.len() / self.max.len();
        let mixtures = self.mixture.chunks_exact_mut(value_dim).zip(next.mixture.chunks_exact(value_dim));
        for (row, (mixture, next_mixture)) in mixtures.enumerate() {
            if next.sum[row] == 0.0 {
                continue;
            }
            if self.sum[row] == 0.0 {
                // The first tokens this row sees, and no sink: the accumulator is empty.
                self.max[row] = next.max[row];
                self.sum[row] = next.sum[row];
                mixture.copy_from_slice(next_mixture);
                continue;
            }
            let max = if next.max[row] > self.max[row] { next.max[row] } else { self.max[row] };
            let [old, new] = [self.max[row], next.max[row]].map(|m| exp(m - max));
            self.max[row] = max;
            self.sum[row] = self.sum[row] * old + next.sum[row] * new;
            (kernels.axpby)(mixture, old, next_mixture, new);
        }
    }
}

/// Read-only [`Partials`].
pub(super) struct PartialsView<'a> {
    max: &'a [f32],
    sum: &'a [f32],
    mixture: &'a [f32],
}

impl<'a> PartialsView<'a> {
    pub(super) fn new(buffer: &'a [f32], value_dim: usize) -> Self {
        let n_rows = buffer.len() / Partials::row_len(value_dim);
        let (max, rest) = buffer.split_at(n_rows);
        let (sum, mixture) = rest.split_at(n_rows);
        Self { max, sum, mixture }
    }
}

/// Writes the normalized result of `row` of the [`Partials`] in `buffer`: `out` is `[value_dim]`.
pub(super) fn finish(buffer: &[f32], row: usize, out: &mut [f32]) {
    let value_dim = out.len();
    let n_rows = buffer.len() / Partials::row_len(value_dim);
    let (sum, mixture) = (buffer[n_rows + row], &buffer[2 * n_rows + row * value_dim..][..value_dim]);
    for (out, value) in out.iter_mut().zip(mixture) {
        // Adding zero turns −0 into +0.
        *out = value / sum + 0.0;
    }
}

/// Computes `values = values · old + next · new`.
#[inline(always)]
pub(crate) fn axpby(values: &mut [f32], old: f32, next: &[f32], new: f32) {
    for (value, next) in values.iter_mut().zip(next) {
        *value = *value * old + next * new;
    }
}
