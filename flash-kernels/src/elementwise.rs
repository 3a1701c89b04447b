//! Element-wise functions and row reductions of a decoder layer.
//!
//! Functions without a pool are compiled once per instruction set. None of them fuses a multiplication and an addition,
//! so all instruction sets give the same bits.

use crate::matrix::Floats;
use crate::pool::Pool;

/// Accumulators of a sum: two AVX-512 vectors hide the latency of an addition.
const LANES: usize = 32;

/// Elements below which one thread works alone: about what it computes while another wakes.
const PARALLEL_MIN: usize = 16 << 10;

/// Pairs deinterleaved at a time: they stay in the L1 cache.
const PAIRS_AT_ONCE: usize = 256;

/// Computes `out = x · weight / √(mean(x²) + eps)` for each row.
///
/// `x`, `out`: `[rows, n]`; `weight`: `[n]`.
///
/// # Panics
/// If the lengths do not fit.
pub fn rms_norm(pool: &Pool, x: &[f32], weight: Floats<'_>, eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "x and out have one shape");
    let n = weight.bytes.len() / weight.float.size_bytes();
    assert!(n > 0 && x.len().is_multiple_of(n), "{} elements in rows of {n}", x.len());
    let mut decoded = vec![0.0; n];
    weight.float.decode_into(weight.bytes, &mut decoded).expect("n was computed from the bytes");
    let kernels = pool.kernels();
    for_rows(pool, x, n, out, |x, out| {
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            (kernels.rms_norm)(x, &decoded, eps, out);
        }
    });
}

/// Activation function of a gated linear unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// `silu(gate) · up`, where `silu(x) = x / (1 + e⁻ˣ)`.
    Silu,
    /// `gelu(gate) · up`, with the tanh approximation
    /// `gelu(x) = x / (1 + e⁻²ᵘ)` for `u = √(2/π) · (x + 0.044715 · x³)`.
    GeluTanh,
    /// `up / (1 + e⁻ᵍ)`, where `g` is the gate.
    Sigmoid,
    /// `g / (1 + e^(−alpha · g)) · (u + 1)`, where `g` is the gate clamped to at most `limit`, and `u` is up clamped to
    /// ±`limit`.
    ClampedSilu {
        /// Slope of the sigmoid.
        alpha: f32,
        /// Clamping limit.
        limit: f32,
    },
}

/// Computes a gated linear unit element by element. `gate`, `up` and `out` have one shape.
///
/// # Panics
/// If the lengths differ.
pub fn gated(pool: &Pool, kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out have one shape");
    let kernels = pool.kernels();
    let (len, width) = (out.len(), part_width(pool, out.len(), 1));
    pool.for_columns(out, len, width, |mut part| {
        let range = part.range();
        (kernels.gate)(kind, &gate[range.clone()], &up[range], part.row_mut(0));
    });
}

/// Computes [`gated`], with the same bits, from interleaved `[gate, up]` pairs, twice as many numbers as `out`.
///
/// # Panics
/// If the lengths do not fit.
pub fn gated_pairs(pool: &Pool, kind: Gate, pairs: &[f32], out: &mut [f32]) {
    let (pairs, rest) = pairs.as_chunks::<2>();
    assert!(rest.is_empty() && pairs.len() == out.len(), "one pair per number of out");
    let kernels = pool.kernels();
    let (len, width) = (out.len(), part_width(pool, out.len(), 1));
    pool.for_columns(out, len, width, |mut part| {
        let pairs = &pairs[part.range()];
        let [mut gates, mut ups] = [[0.0; PAIRS_AT_ONCE]; 2];
        for (pairs, out) in pairs.chunks(PAIRS_AT_ONCE).zip(part.row_mut(0).chunks_mut(PAIRS_AT_ONCE)) {
            for ((gate, up), pair) in gates.iter_mut().zip(&mut ups).zip(pairs) {
                [*gate, *up] = *pair;
            }
            (kernels.gate)(kind, &gates[..out.len()], &ups[..out.len()], out);
        }
    });
}

/// Calls `part` for ranges of rows of `n` elements of `x` and `out`, on all threads.
fn for_rows(pool: &Pool, x: &[f32], n: usize, out: &mut [f32], part: impl Fn(&[f32], &mut [f32]) + Sync) {
    let (len, width) = (out.len(), part_width(pool, out.len(), n));
    pool.for_columns(out, len, width, |mut columns| part(&x[columns.range()], columns.row_mut(0)));
}

/// Returns the elements per part: whole rows of `n`, or all of them if threads would not help.
pub(crate) fn part_width(pool: &Pool, len: usize, n: usize) -> usize {
    if len < PARALLEL_MIN { len.max(1) } else { len.div_ceil(4 * pool.n_threads()).next_multiple_of(n) }
}

#[inline(always)]
pub(crate) fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let squares = sum(x, |x| x * x);
    let factor = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * factor * weight;
    }
}

/// Kernel of [`gated`] for one thread.
#[inline(always)]
pub(crate) fn gate_slice(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match kind {
        Gate::Silu => silu_slice(gate, up, out),
        Gate::GeluTanh => gelu_slice(gate, up, out),
        Gate::Sigmoid => sigmoid_slice(gate, up, out),
        Gate::ClampedSilu { alpha, limit } => clamped_slice(alpha, limit, gate, up, out),
    }
}

#[inline(always)]
fn silu_slice(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

#[inline(always)]
fn sigmoid_slice(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = up / (1.0 + exp(-gate));
    }
}

#[inline(always)]
fn gelu_slice(gate: &[f32], up: &[f32], out: &mut [f32]) {
    /// Coefficients of 2u: 2 · √(2/π), and 0.044715 times that.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let twice = gate * (LINEAR + CUBIC * (gate * gate));
        *out = gate / (1.0 + exp(-twice)) * up;
    }
}

#[inline(always)]
fn clamped_slice(alpha: f32, limit: f32, gate: &[f32], up: &[f32], out: &mut [f32]) {
    // The comparisons keep NaN.
    let at_most = |x: f32| if x > limit { limit } else { x };
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let (gate, up) = (at_most(*gate), at_most(*up));
        let up = if up < -limit { -limit } else { up };
        *out = gate / (1.0 + exp(-alpha * gate)) * (up + 1.0);
    }
}

/// Replaces each score by its softmax numerator, `e^(score − max)`; returns the maximum and the sum of the numerators.
///
/// A score of −∞ becomes zero, even if all scores are −∞; the sum is zero then.
#[inline(always)]
pub(crate) fn softmax_numerators(scores: &mut [f32]) -> (f32, f32) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (max, score) in maxima.iter_mut().zip(chunk) {
            *max = if *score > *max { *score } else { *max };
        }
    }
    let max = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, score| max.max(*score));
    // Finite, so that −∞ minus the shift is −∞.
    let shift = max.max(f32::MIN);
    for score in scores.iter_mut() {
        *score = exp(*score - shift);
    }
    (max, sum(scores, |score| score))
}

#[inline(always)]
fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += of(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += of(*value);
    }
    sums.iter().sum()
}

/// Computes eˣ with an error below 2 units in the last place. Results below the normal numbers are zero, overflow is
/// infinity, and NaN stays NaN.
///
/// x = n · ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by its Taylor polynomial of degree 7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Bounds of x within which 2ⁿ is a normal number; eˣ is still normal a little beyond.
    const X_MIN: f32 = -87.3;
    const X_MAX: f32 = 88.0;
    /// ln 2 in two parts, the first with so few digits that its product with n is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Adding it rounds to an integer, which the low bits of the sum then hold.
    const ROUNDER: f32 = 12_582_912.0;
    const ROUNDER_BITS: u32 = ROUNDER.to_bits();

    let (is_tiny, is_huge) = (x < X_MIN, x > X_MAX);
    // The comparisons keep NaN.
    let x = if x < X_MIN { X_MIN } else { x };
    let x = if x > X_MAX { X_MAX } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let mut power = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * r + coefficient;
    }
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUNDER_BITS).wrapping_add(127) << 23);
    let power = if is_tiny { 0.0 } else { power * scale };
    if is_huge { f32::INFINITY } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_errs_by_less_than_two_units_in_the_last_place() {
        for step in -87_300..=88_000 {
            let x = step as f32 / 1000.0;
            let wanted = f64::from(x).exp();
            let unit = wanted * f64::from(f32::EPSILON);
            let error = (f64::from(exp(x)) - wanted).abs() / unit;
            assert!(error < 2.0, "e^{x}: {error} units");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-88.0), exp(f32::NEG_INFINITY)], [0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!([exp(89.0), exp(f32::INFINITY)], [f32::INFINITY; 2]);
    }
}
