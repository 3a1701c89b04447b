//! Floating-point weights, and the scales and biases of codes.

use std::ops::Range;

use super::intrinsics::*;
use super::vectors::{load, load_128, load_half, transpose};
use super::{LANES, QUADS};
use crate::float::FloatType;
use crate::isa::FloatInput;
use crate::tile::{FloatRows, LaneRows, Lanes};

/// Vectors of a tile with independent sums, to hide the latency of additions.
const QUADS_STEP: usize = 4;

/// Rows of activations multiplied with [`QUADS_STEP`] vectors of decoded weights at a time: their sums and operands
/// fill the registers.
const ROWS_STEP: usize = 4;

/// [`Kernels::decode`](crate::isa::Kernels::decode).
pub(super) fn decode(rows: FloatRows<'_>, columns: Range<usize>, out: &mut [Lanes]) {
    match rows.float {
        FloatType::F32 => decode_as(rows, columns, out, words_of_f32),
        FloatType::F16 => decode_as(rows, columns, out, words_of_f16),
        FloatType::BF16 => decode_as(rows, columns, out, words_of_bf16),
    }
}

fn decode_as<const N: usize>(
    rows: FloatRows<'_>,
    columns: Range<usize>,
    out: &mut [Lanes],
    words: impl Fn(&[u8; N]) -> uint32x4_t,
) {
    for quad in 0..QUADS {
        let stored = Quad::new(rows, quad, columns.clone());
        for (idx, out) in out.chunks_mut(LANES).enumerate() {
            for (out, column) in out.iter_mut().zip(stored.block(idx, &words)) {
                out.store_128(quad, column);
            }
        }
    }
}

/// [`Kernels::multiply_floats`](crate::isa::Kernels::multiply_floats).
pub(super) fn multiply(rows: FloatRows<'_>, x: &[f32], acc: &mut Lanes) {
    match rows.float {
        FloatType::F32 => multiply_as(rows, x, acc, words_of_f32),
        FloatType::F16 => multiply_as(rows, x, acc, words_of_f16),
        FloatType::BF16 => multiply_as(rows, x, acc, words_of_bf16),
    }
}

fn multiply_as<const N: usize>(
    rows: FloatRows<'_>,
    x: &[f32],
    acc: &mut Lanes,
    words: impl Fn(&[u8; N]) -> uint32x4_t,
) {
    let (blocks, rest) = x.as_chunks::<LANES>();
    for first in (0..QUADS).step_by(QUADS_STEP) {
        let stored: [_; QUADS_STEP] = std::array::from_fn(|at| Quad::new(rows, first + at, 0..x.len()));
        let mut sums: [_; QUADS_STEP] = std::array::from_fn(|at| acc.load_128(first + at));
        for (idx, x) in blocks.iter().enumerate() {
            for (stored, sum) in stored.iter().zip(&mut sums) {
                for (x, weights) in x.iter().zip(stored.block(idx, &words)) {
                    *sum = vfmaq_n_f32(*sum, weights, *x);
                }
            }
        }
        for (at, mut sum) in sums.into_iter().enumerate() {
            for (x, weights) in rest.iter().zip(stored[at].block(blocks.len(), &words)) {
                sum = vfmaq_n_f32(sum, weights, *x);
            }
            acc.store_128(first + at, sum);
        }
    }
}

/// Stored columns of four rows.
#[derive(Clone, Copy)]
struct Quad<'a>([&'a [u8]; LANES]);

impl<'a> Quad<'a> {
    fn new(rows: FloatRows<'a>, quad: usize, columns: Range<usize>) -> Self {
        let size_bytes = rows.float.size_bytes();
        let bytes = columns.start * size_bytes..columns.end * size_bytes;
        Self(std::array::from_fn(|lane| &rows.rows.row(quad * LANES + lane)[bytes.clone()]))
    }

    /// Returns the `idx`-th four columns, decoded by `words` from `N` bytes per row. Columns beyond the last are zero.
    #[inline]
    fn block<const N: usize>(
        self,
        idx: usize,
        words: impl Fn(&[u8; N]) -> uint32x4_t,
    ) -> [float32x4_t; LANES] {
        let zero = vreinterpretq_u32_f32(vdupq_n_f32(0.0));
        let mut rows = [zero; LANES];
        for (row, stored) in rows.iter_mut().zip(self.0) {
            *row = match stored.as_chunks() {
                (blocks, _) if idx < blocks.len() => words(&blocks[idx]),
                (_, rest) => words(&padded(rest)),
            };
        }
        transpose(rows).map(vreinterpretq_f32_u32)
    }
}

/// Pads the bytes with zeros.
#[cold]
#[inline(never)]
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut padded = [0; N];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}

#[inline]
fn words_of_f32(bytes: &[u8; 16]) -> uint32x4_t {
    vreinterpretq_u32_u8(load(bytes))
}

#[inline]
fn words_of_f16(bytes: &[u8; 8]) -> uint32x4_t {
    let halves = vreinterpret_f16_u16(vreinterpret_u16_u8(load_half(bytes)));
    vreinterpretq_u32_f32(vcvt_f32_f16(halves))
}

#[inline]
fn words_of_bf16(bytes: &[u8; 8]) -> uint32x4_t {
    vshlq_n_u32::<16>(vmovl_u16(vreinterpret_u16_u8(load_half(bytes))))
}

/// [`Kernels::multiply_lanes`](crate::isa::Kernels::multiply_lanes).
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
fn multiply_lanes_rows<const M: usize>(weights: LaneRows<'_>, x: [&[f32]; M], acc: &mut [Lanes; M]) {
    // Equal lengths, so that the compiler removes the bounds checks below.
    let mut x = x;
    for x in &mut x {
        *x = &x[..weights.len()];
    }
    for first in (0..QUADS).step_by(QUADS_STEP) {
        let mut sums = [[vdupq_n_f32(0.0); QUADS_STEP]; M];
        for row in 0..M {
            sums[row] = std::array::from_fn(|at| acc[row].load_128(first + at));
        }
        for (column, weights) in (0..weights.len()).map(|idx| weights.row(idx)).enumerate() {
            let weights: [_; QUADS_STEP] = std::array::from_fn(|at| load_128(weights, first + at));
            for row in 0..M {
                for (sum, weights) in sums[row].iter_mut().zip(weights) {
                    *sum = vfmaq_n_f32(*sum, weights, x[row][column]);
                }
            }
        }
        for row in 0..M {
            for (quad, sum) in (first..).zip(sums[row]) {
                acc[row].store_128(quad, sum);
            }
        }
    }
}
