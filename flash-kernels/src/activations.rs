//! Activations as fixed-point numbers, so that their products with codes are integers and the order of adding
//! them cannot matter.
//!
//! Each group of values becomes 16-bit codes and a scale. A chain of groups ([`chains`](crate::chains)) is, from 0 on, for
//! each group from the first to the last and with each step rounded to `f32`,
//! `chain ← fma(D · scale, s, chain)`, then `chain ← fma(sum, b, chain)`,
//! where `D` is the exact dot product of the group's codes with the weights' codes, `sum` the sum of the group's
//! values, and `s` and `b` the weights' scale and bias. An element of a product with affine weights is 0 plus each chain, from the
//! first to the last. Nothing in this depends on other rows, on threads or on the instruction set.

mod rows;
mod vector;

use std::ops::RangeInclusive;

use crate::isa::Kernels;

#[cfg(target_arch = "x86_64")]
pub(crate) use rows::SUM_BLOCKS;
pub(crate) use rows::{FixedRows, ROW_STEP, ROW_TILE, RowPairs, convert, pack_rows, row_pairs};
pub(crate) use vector::{FixedVector, LINE_BYTES, Plane, arrange_words};
#[cfg(target_arch = "x86_64")]
pub(crate) use vector::{arrange_digits, digits_of};

/// The greatest magnitude of a fixed-point activation. With a code added it still fits 16 bits (32512 + 255 is
/// the greatest `i16`), 128 products with codes of 8 bits fit 32, and its upper digit of 8 bits fits 8.
const FIXED_MAX: f32 = 32512.0;

/// Magnitudes that a group's greatest value may have: 2⁻¹⁰⁰ to 2¹⁰⁰. Beyond, its scale or the inverse would leave the
/// normal numbers; such groups are [`Exception`]s.
const GREATEST: RangeInclusive<f32> = f32::from_bits((127 - 100) << 23)..=f32::from_bits((127 + 100) << 23);

/// Adding it to an `f32` below 2²² in magnitude rounds that to an integer (ties to even), which the low bits of the
/// sum then hold: 1.5 · 2²³.
const ROUNDER: f32 = 12_582_912.0;

/// What belongs to one group of one row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Terms {
    /// The value of code 1.
    pub(crate) scale: f32,
    /// The sum of the group's values.
    pub(crate) sum: f32,
}

/// An activation that no fixed-point number stands for: infinite, NaN, or in a group of extreme magnitude. Its code
/// is zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exception {
    pub(crate) row_idx: usize,
    pub(crate) k_idx: usize,
    pub(crate) value: f32,
}

/// Converts a group of values; whether codes can stand for them: otherwise the codes are zeros, and the terms. They are not
/// returned: who reads two numbers at once that were written one by one waits until both have reached the cache.
#[inline(always)]
pub(crate) fn fix_group(values: &[f32], codes: &mut [i16], terms: &mut Terms) -> bool {
    // Without their signs, floats are ordered as their bits are, and those that are not finite come last.
    let greatest = values.iter().map(|value| value.to_bits() & (u32::MAX >> 1)).fold(0, u32::max);
    let greatest = f32::from_bits(greatest);
    if !GREATEST.contains(&greatest) {
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
    // Below 2²³, so the conversion is exact.
    *terms = Terms { scale, sum: sum as f32 * scale };
    true
}

/// Computes what [`fix_group`] leaves of each value of whole groups, rounded to `f32`: the value less what its code stands for. Nothing
/// is left of [`Exception`]s.
pub(crate) fn residuals(kernels: &Kernels, values: &[f32], group: usize, out: &mut [f32]) {
    let mut codes = vec![0; group];
    for (values, out) in values.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        let mut terms = Terms::default();
        if !(kernels.fix_group)(values, &mut codes, &mut terms) {
            out.fill(0.0);
            continue;
        }
        let scale = f64::from(terms.scale);
        for ((out, value), code) in out.iter_mut().zip(values).zip(&codes) {
            // A product of 16 and 24 bits is exact, and so is the difference, for both are multiples of the value's last bit or the
            // scale's.
            *out = (f64::from(*value) - f64::from(*code) * scale) as f32;
        }
    }
}

/// The exceptions among the values of a group from `k_start` on: those that are not zero.
fn exceptions(row_idx: usize, k_start: usize, values: &[f32]) -> impl Iterator<Item = Exception> {
    let not_zero = values.iter().enumerate().filter(|(_, value)| **value != 0.0);
    not_zero.map(move |(at, value)| Exception { row_idx, k_idx: k_start + at, value: *value })
}
