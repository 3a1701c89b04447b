//! Floating-point weights, and the scales and biases of codes.

#![expect(
    unsafe_code,
    reason = "loads through pointers: bounds checks of 8 rows at a time would be too slow"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::transpose;
use super::vectors::{VECTOR_BYTES, VECTORS, load_256};
use super::words::{HALF_ROWS, HALVES};
use super::{LANES, OCTETS};
use crate::float::FloatType;
use crate::isa::FloatInput;
use crate::isa::x86::prefetch_next_tile;
use crate::tile::{FloatRows, LaneRows, Lanes, Layout};

/// Vectors of decoded weights multiplied with [`ROWS_STEP`] rows of activations at a time: their sums and operands fill
/// the registers.
const OCTETS_STEP: usize = 2;

/// Rows of activations multiplied at a time.
const ROWS_STEP: usize = 4;

/// [`Kernels::decode`](crate::isa::Kernels::decode).
#[target_feature(enable = "avx2,f16c")]
pub(super) fn decode(rows: FloatRows<'_>, columns: Range<usize>, out: &mut [Lanes]) {
    prefetch_next_tile(rows, columns.clone());
    match rows.layout {
        Layout::Rows => decode_octets(rows, 0..OCTETS, columns, out),
        Layout::Strips(_) => {
            for (out, column) in out.iter_mut().zip(columns) {
                for half in 0..HALVES {
                    for (vector, numbers) in load_strip(rows, half, column).into_iter().enumerate() {
                        out.store_256(VECTORS * half + vector, numbers);
                    }
                }
            }
        }
    }
}

/// Decodes a column of half a tile in strips.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn load_strip(rows: FloatRows<'_>, half: usize, column: usize) -> [__m256; VECTORS] {
    let size_bytes = rows.float.size_bytes();
    let start = HALF_ROWS * (half * rows.rows.row_bytes() + column * size_bytes);
    let numbers = rows.rows.bytes()[start..][..HALF_ROWS * size_bytes].as_ptr();
    // SAFETY: the slice holds two times 8 numbers.
    let vectors =
        unsafe { [decode_row(rows.float, numbers), decode_row(rows.float, numbers.add(LANES * size_bytes))] };
    [_mm256_castsi256_ps(vectors[0]), _mm256_castsi256_ps(vectors[1])]
}

/// [`decode`] of some vectors of each column.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn decode_octets(
    rows: FloatRows<'_>,
    octets: Range<usize>,
    columns: Range<usize>,
    out: &mut [Lanes],
) {
    for octet in octets {
        let (blocks, last) = out.as_chunks_mut::<LANES>();
        for (idx, out) in blocks.iter_mut().enumerate() {
            let block = decode_whole_block(rows, octet, columns.start + LANES * idx);
            for column in 0..LANES {
                out[column].store_256(octet, block[column]);
            }
        }
        if !last.is_empty() {
            let (block, first) = decode_block(rows, octet, columns.end - last.len()..columns.end);
            for (out, column) in last.iter_mut().zip(&block[first..]) {
                out.store_256(octet, *column);
            }
        }
    }
}

/// Decodes up to 8 columns of 8 rows, and returns how many other columns precede them.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn decode_block(rows: FloatRows<'_>, octet: usize, columns: Range<usize>) -> ([__m256; LANES], usize) {
    match columns.end.checked_sub(LANES) {
        Some(start) => (decode_whole_block(rows, octet, start), columns.start - start),
        None => (decode_short_rows(rows, octet, columns), 0),
    }
}

/// Decodes 8 columns of 8 rows.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn decode_whole_block(rows: FloatRows<'_>, octet: usize, column_start: usize) -> [__m256; LANES] {
    let size_bytes = rows.float.size_bytes();
    let row_bytes = rows.rows.row_bytes();
    assert!((column_start + LANES) * size_bytes <= row_bytes);
    let start = rows.rows.bytes()[octet * LANES * row_bytes + column_start * size_bytes..].as_ptr();
    // SAFETY: each row of the tile has these 8 columns, by the assertion on their end.
    transpose_rows(|lane| unsafe { decode_row(rows.float, start.wrapping_add(lane * row_bytes)) })
}

/// [`decode_block`] of rows of fewer than 8 columns, from a zero-padded copy.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx2,f16c")]
fn decode_short_rows(rows: FloatRows<'_>, octet: usize, columns: Range<usize>) -> [__m256; LANES] {
    let size_bytes = rows.float.size_bytes();
    let bytes = columns.start * size_bytes..columns.end * size_bytes;
    transpose_rows(|lane| {
        let mut padded = [0; VECTOR_BYTES];
        padded[..bytes.len()].copy_from_slice(&rows.rows.row(octet * LANES + lane)[bytes.clone()]);
        // SAFETY: the array holds 8 values of the widest type.
        unsafe { decode_row(rows.float, padded.as_ptr()) }
    })
}

/// Transposes 8 rows.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_rows(row: impl Fn(usize) -> __m256i) -> [__m256; LANES] {
    let mut columns = [_mm256_setzero_ps(); LANES];
    let words = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
    for (column, word) in columns.iter_mut().zip(transpose(&words)) {
        *column = _mm256_castsi256_ps(word);
    }
    columns
}

/// Decodes 8 contiguous values.
///
/// # Safety
/// Their bytes must be readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn decode_row(float: FloatType, start: *const u8) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match float {
            FloatType::F32 => _mm256_loadu_si256(start.cast()),
            FloatType::F16 => _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(start.cast()))),
            FloatType::BF16 => _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(start.cast()))),
        }
    }
}

/// [`Kernels::multiply_floats`](crate::isa::Kernels::multiply_floats).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(rows: FloatRows<'_>, x: &[f32], acc: &mut Lanes) {
    let (blocks, rest) = x.as_chunks::<LANES>();
    for octet in (0..OCTETS).step_by(2) {
        // Two independent sums hide the latency of additions.
        let mut sums = [acc.load_256(octet), acc.load_256(octet + 1)];
        for (idx, x) in blocks.iter().enumerate() {
            sums[0] = add_block(rows, octet, idx * LANES, x, sums[0]);
            sums[1] = add_block(rows, octet + 1, idx * LANES, x, sums[1]);
        }
        if !rest.is_empty() {
            sums[0] = add_block(rows, octet, blocks.len() * LANES, rest, sums[0]);
            sums[1] = add_block(rows, octet + 1, blocks.len() * LANES, rest, sums[1]);
        }
        acc.store_256(octet, sums[0]);
        acc.store_256(octet + 1, sums[1]);
    }
}

/// Adds the products of the activations `x` with the columns from `column_start` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_block(rows: FloatRows<'_>, octet: usize, column_start: usize, x: &[f32], mut sum: __m256) -> __m256 {
    let (block, first) = decode_block(rows, octet, column_start..column_start + x.len());
    for (x, weights) in x.iter().zip(&block[first..]) {
        sum = _mm256_fmadd_ps(_mm256_set1_ps(*x), *weights, sum);
    }
    sum
}

/// [`Kernels::multiply_lanes`](crate::isa::Kernels::multiply_lanes).
#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply_lanes(
    weights: LaneRows<'_>,
    column_start: usize,
    x: FloatInput<'_>,
    acc: &mut [Lanes],
) {
    let done = multiply_lanes_steps::<ROWS_STEP>(weights, column_start, x, acc, 0);
    let done = multiply_lanes_steps::<2>(weights, column_start, x, acc, done);
    multiply_lanes_steps::<1>(weights, column_start, x, acc, done);
}

/// Multiplies the rows from `done` on, `M` at a time; returns how many are done then.
#[inline]
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
fn multiply_lanes_rows<const M: usize>(weights: LaneRows<'_>, x: [&[f32]; M], acc: &mut [Lanes; M]) {
    // Equal lengths, so that the compiler removes the bounds checks below.
    let mut x = x;
    for x in &mut x {
        *x = &x[..weights.len()];
    }
    for octet in (0..OCTETS).step_by(OCTETS_STEP) {
        let mut sums = [[_mm256_setzero_ps(); OCTETS_STEP]; M];
        for row in 0..M {
            sums[row] = [acc[row].load_256(octet), acc[row].load_256(octet + 1)];
        }
        for column in 0..weights.len() {
            let weights = weights.row(column);
            let weights = [load_256(weights, octet), load_256(weights, octet + 1)];
            for row in 0..M {
                let x = _mm256_set1_ps(x[row][column]);
                for (sum, weights) in sums[row].iter_mut().zip(weights) {
                    *sum = _mm256_fmadd_ps(x, weights, *sum);
                }
            }
        }
        for row in 0..M {
            for (octet, sum) in (octet..).zip(sums[row]) {
                acc[row].store_256(octet, sum);
            }
        }
    }
}
