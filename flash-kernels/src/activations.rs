//! Activations as fixed-point numbers: products with codes are then integers, whose sum does not depend on the order.
//!
//! Each group of values becomes 16-bit codes and a scale. The result of an accumulation chain
//! ([`chains`](crate::chains)) starts at 0 and is, for each group from the first to the last and with each step rounded
//! to `f32`, `chain ← fma(D · scale, s, chain)`, then `chain ← fma(sum, b, chain)`, where `D` is the exact dot product
//! of the group's codes with the weights' codes, `sum` the sum of the group's values, and `s` and `b` the weights'
//! scale and bias. An element of a product with affine weights is 0 plus each chain, from the first to the last. The
//! result does not depend on other rows, on threads or on the instruction set.

mod rows;
mod vector;

use std::ops::RangeInclusive;

use crate::isa::Kernels;

#[cfg(target_arch = "x86_64")]
pub(crate) use rows::SUM_BLOCKS;
pub(crate) use rows::{FixedRows, ROW_STEP, ROW_TILE, RowPairs, convert, pack_rows, row_pairs};
pub(crate) use vector::{
    FixedVector, LINE_BYTES, Plane, arrange_digits, arrange_words, digits_of, zero_planes,
};

/// The largest magnitude of a fixed-point activation. Plus a code it fits 16 bits (32512 + 255 is the greatest `i16`),
/// 128 products with codes of 8 bits fit 32, and its upper 8-bit digit fits 8.
const FIXED_MAX: f32 = 32512.0;

/// Range of a group's largest magnitude: 2⁻¹⁰⁰ to 2¹⁰⁰. Beyond it, the scale or its inverse would not be a normal
/// number; such groups are [`Exception`]s.
const MAGNITUDE_RANGE: RangeInclusive<f32> =
    f32::from_bits((127 - 100) << 23)..=f32::from_bits((127 + 100) << 23);

/// 1.5 · 2²³. Adding it to an `f32` below 2²² in magnitude rounds that to an integer (ties to even), which the low bits
/// of the sum then hold.
const ROUNDER: f32 = 12_582_912.0;

/// Scale and sum of one group of one row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Terms {
    /// The value of code 1.
    pub(crate) scale: f32,
    /// The sum of the group's values.
    pub(crate) sum: f32,
}

/// An activation without a fixed-point representation: infinite, NaN, or in a group of extreme magnitude. Its code is
/// zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exception {
    pub(crate) row_idx: usize,
    pub(crate) k_idx: usize,
    pub(crate) value: f32,
}

/// Quantizes a group of values and returns whether codes can represent them. If not, the codes and terms are zero.
///
/// `terms` is an argument rather than a result, because reading both numbers at once after two separate writes stalls
/// until they reach the cache.
#[inline(always)]
pub(crate) fn quantize_group(values: &[f32], codes: &mut [i16], terms: &mut Terms) -> bool {
    // The bits of floats without their signs are ordered as the floats are; values that are not finite come last.
    let greatest = values.iter().map(|value| value.to_bits() & (u32::MAX >> 1)).fold(0, u32::max);
    let greatest = f32::from_bits(greatest);
    if !MAGNITUDE_RANGE.contains(&greatest) {
        codes.fill(0);
        *terms = Terms::default();
        return greatest == 0.0;
    }
    let inverse = FIXED_MAX / greatest;
    let mut sum = 0;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * inverse + ROUNDER).to_bits() as i16;
        sum += i32::from(*code);
    }
    let scale = greatest / FIXED_MAX;
    // The sum is below 2²³, so the conversion is exact.
    *terms = Terms { scale, sum: sum as f32 * scale };
    true
}

/// Computes the residuals of [`quantize_group`], rounded to `f32`, of whole groups: each value minus the value of its
/// code. Residuals of [`Exception`]s are zero.
pub(crate) fn residuals(kernels: &Kernels, values: &[f32], group: usize, out: &mut [f32]) {
    let mut codes = vec![0; group];
    for (values, out) in values.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        let mut terms = Terms::default();
        if !(kernels.quantize_group)(values, &mut codes, &mut terms) {
            out.fill(0.0);
            continue;
        }
        let scale = f64::from(terms.scale);
        for ((out, value), code) in out.iter_mut().zip(values).zip(&codes) {
            // Exact: a product of 16 and 24 bits fits `f64`, and so does the difference, since both are multiples of
            // the last bit of the value or the scale.
            *out = (f64::from(*value) - f64::from(*code) * scale) as f32;
        }
    }
}

/// Returns the exceptions in a group that starts at column `k_start`: its nonzero values.
fn exceptions(row_idx: usize, k_start: usize, values: &[f32]) -> impl Iterator<Item = Exception> {
    let not_zero = values.iter().enumerate().filter(|(_, value)| **value != 0.0);
    not_zero.map(move |(at, value)| Exception { row_idx, k_idx: k_start + at, value: *value })
}
