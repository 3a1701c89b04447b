//! Floating-point weights, and the scales and biases of codes.

#![expect(unsafe_code, reason = "loads of a row's last columns are masked, which no slice can express")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::transpose;
use super::vectors::load_512;
use super::{HALVES, LANES};
use crate::float::FloatType;
use crate::isa::FloatInput;
use crate::isa::x86::prefetch_next_tile;
use crate::tile::{FloatRows, LaneRows, Lanes, Layout};

/// [`Kernels::decode`](crate::isa::Kernels::decode).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn decode(rows: FloatRows<'_>, columns: Range<usize>, out: &mut [Lanes]) {
    prefetch_next_tile(rows, columns.clone());
    for half in 0..HALVES {
        decode_half(rows, half, columns.clone(), out);
    }
}

/// [`decode`] of half of each column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn decode_half(rows: FloatRows<'_>, half: usize, columns: Range<usize>, out: &mut [Lanes]) {
    match rows.layout {
        Layout::Rows => {
            for (out, start) in out.chunks_mut(LANES).zip(columns.clone().step_by(LANES)) {
                let block = decode_block(rows, half, start..columns.end.min(start + LANES));
                for (out, column) in out.iter_mut().zip(block) {
                    out.store_512(half, column);
                }
            }
        }
        Layout::Strips(_) => {
            for (out, column) in out.iter_mut().zip(columns) {
                out.store_512(half, load_strip(rows, half, column));
            }
        }
    }
}

/// Decodes a column of half a tile in strips.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn load_strip(rows: FloatRows<'_>, half: usize, column: usize) -> __m512 {
    let size_bytes = rows.float.size_bytes();
    let start = LANES * (half * rows.rows.row_bytes() + column * size_bytes);
    let numbers = &rows.rows.bytes()[start..][..LANES * size_bytes];
    // SAFETY: the slice holds 16 numbers.
    _mm512_castsi512_ps(unsafe { decode_row(rows.float, u16::MAX, numbers.as_ptr()) })
}

/// Decodes the contiguous values that `mask` selects; the others are zero.
///
/// # Safety
/// The bytes of the selected values must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn decode_row(float: FloatType, mask: u16, start: *const u8) -> __m512i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match float {
            FloatType::F32 => _mm512_maskz_loadu_epi32(mask, start.cast()),
            FloatType::F16 => {
                _mm512_castps_si512(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, start.cast())))
            }
            FloatType::BF16 => {
                let upper = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, start.cast()));
                _mm512_slli_epi32::<16>(upper)
            }
        }
    }
}

/// Decodes up to 16 columns of 16 rows; the others are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn decode_block(rows: FloatRows<'_>, half: usize, columns: Range<usize>) -> [__m512; LANES] {
    let size_bytes = rows.float.size_bytes();
    let mask = u16::MAX >> (LANES - columns.len());
    let row_bytes = rows.rows.row_bytes();
    assert!(columns.end * size_bytes <= row_bytes);
    let start = rows.rows.bytes()[half * LANES * row_bytes + columns.start * size_bytes..].as_ptr();
    let mut words = [_mm512_setzero_si512(); LANES];
    for (lane, word) in words.iter_mut().enumerate() {
        let start = start.wrapping_add(lane * row_bytes);
        // SAFETY: each row of the tile has the columns that the mask selects, by the assertion on their end.
        *word = unsafe { decode_row(rows.float, mask, start) };
    }
    let words = transpose(&words);
    let mut block = [_mm512_setzero_ps(); LANES];
    for (column, word) in block.iter_mut().zip(words) {
        *column = _mm512_castsi512_ps(word);
    }
    block
}

/// [`Kernels::multiply_floats`](crate::isa::Kernels::multiply_floats).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn multiply(rows: FloatRows<'_>, x: &[f32], acc: &mut Lanes) {
    for half in 0..HALVES {
        let mut sum = acc.load_512(half);
        for (idx, x) in x.chunks(LANES).enumerate() {
            let block = decode_block(rows, half, idx * LANES..idx * LANES + x.len());
            for (x, weights) in x.iter().zip(block) {
                sum = _mm512_fmadd_ps(_mm512_set1_ps(*x), weights, sum);
            }
        }
        acc.store_512(half, sum);
    }
}

/// [`Kernels::multiply_lanes`](crate::isa::Kernels::multiply_lanes).
#[target_feature(enable = "avx512f")]
pub(super) fn multiply_lanes(
    weights: LaneRows<'_>,
    column_start: usize,
    x: FloatInput<'_>,
    acc: &mut [Lanes],
) {
    let done = multiply_lanes_steps::<8>(weights, column_start, x, acc, 0);
    let done = multiply_lanes_steps::<4>(weights, column_start, x, acc, done);
    let done = multiply_lanes_steps::<2>(weights, column_start, x, acc, done);
    multiply_lanes_steps::<1>(weights, column_start, x, acc, done);
}

/// Multiplies the rows from `done` on, `M` at a time; returns how many are done then.
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_lanes_steps<const M: usize>(
    weights: LaneRows<'_>,
    column_start: usize,
    x: FloatInput<'_>,
    acc: &mut [Lanes],
    done: usize,
) -> usize {
    let (steps, _) = acc[done..].as_chunks_mut::<M>();
    for (idx, acc) in steps.iter_mut().enumerate() {
        let rows = x.rows(done + M * idx, column_start..column_start + weights.len());
        multiply_lanes_rows(weights, rows, acc);
    }
    done + M * steps.len()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_lanes_rows<const M: usize>(weights: LaneRows<'_>, x: [&[f32]; M], acc: &mut [Lanes; M]) {
    let mut sums = [[_mm512_setzero_ps(); HALVES]; M];
    for row in 0..M {
        sums[row] = [acc[row].load_512(0), acc[row].load_512(1)];
    }
    // Equal lengths, so that the compiler removes the bounds checks below.
    let mut x = x;
    for x in &mut x {
        *x = &x[..weights.len()];
    }
    for column in 0..weights.len() {
        let weights = weights.row(column);
        let weights = [load_512(weights, 0), load_512(weights, 1)];
        for row in 0..M {
            let x = _mm512_set1_ps(x[row][column]);
            for half in 0..HALVES {
                sums[row][half] = _mm512_fmadd_ps(x, weights[half], sums[row][half]);
            }
        }
    }
    for row in 0..M {
        for (half, sum) in sums[row].into_iter().enumerate() {
            acc[row].store_512(half, sum);
        }
    }
}
