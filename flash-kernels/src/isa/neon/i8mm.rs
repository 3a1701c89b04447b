//! Few rows of activations, where the processor multiplies matrices of bytes (`FEAT_I8MM`).
//!
//! An instruction multiplies 8 codes of two rows of weights with two rows of 8 signed bytes: the upper and the lower
//! digits of one row of activations.

use std::ops::Range;
use std::sync::Arc;

use super::LANES;
use super::codes::{RowVectors, multiply_rows};
use super::intrinsics::*;
use super::vectors::{VECTOR_BYTES, load};
use crate::activations::{FixedVector, Plane, digits_of, zero_planes};
use crate::affine_tile::AffineTile;
use crate::tile::{CodeBits, Lanes};

/// Pairs of rows of weights in four rows.
const PAIRS: usize = LANES / 2;

/// Codes of a row that an instruction multiplies.
const DEPTH: usize = VECTOR_BYTES / 2;

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes): four rows of activations at a time, then two and
/// one.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "i8mm"))]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    let ((fours, x), (acc_fours, acc)) = (x.as_chunks::<4>(), acc.as_chunks_mut::<4>());
    multiply_each(tile, fours, acc_fours);
    let ((pairs, x), (acc_pairs, acc)) = (x.as_chunks::<2>(), acc.as_chunks_mut::<2>());
    multiply_each(tile, pairs, acc_pairs);
    multiply_each(tile, x.as_chunks::<1>().0, acc.as_chunks_mut::<1>().0);
}

/// Multiplies `M` rows of activations at a time.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "i8mm"))]
fn multiply_each<const M: usize>(tile: &AffineTile<'_>, x: &[[Arc<FixedVector>; M]], acc: &mut [[Lanes; M]]) {
    for (x, acc) in x.iter().zip(acc) {
        multiply_rows(tile, x, acc, |bits, rows, range, planes| match bits {
            CodeBits::Four => dots::<4, M>(rows, range, planes),
            CodeBits::Eight => dots::<2, M>(rows, range, planes),
        });
    }
}

/// Dot products of codes of which a vector has `STEPS · DEPTH`.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "i8mm"))]
fn dots<const STEPS: usize, const M: usize>(
    rows: RowVectors<'_>,
    range: Range<usize>,
    planes: [&[Plane]; M],
) -> [int32x4_t; M] {
    let mask = vdupq_n_u8(15);
    // Each the products of two rows of weights with the upper and the lower digits: a matrix, row-major.
    let mut sums = [[vdupq_n_s32(0); PAIRS]; M];
    let rows = rows.map(|row| &row[range.clone()]);
    let digits = planes.map(|planes| {
        let vectors: &[[u8; VECTOR_BYTES]] = bytemuck::cast_slice(planes);
        &vectors.as_chunks::<STEPS>().0[range.clone()]
    });
    for at in 0..range.len() {
        let vectors = rows.map(|row| load(&row[at]));
        let mut codes = [[mask; PAIRS]; STEPS];
        for pair in 0..PAIRS {
            let (first, second) = (vectors[2 * pair], vectors[2 * pair + 1]);
            for (half, bytes) in
                [low_halves(first, second), high_halves(first, second)].into_iter().enumerate()
            {
                if STEPS == 4 {
                    codes[2 * half][pair] = vandq_u8(bytes, mask);
                    codes[2 * half + 1][pair] = vshrq_n_u8::<4>(bytes);
                } else {
                    codes[half][pair] = bytes;
                }
            }
        }
        for row in 0..M {
            for step in 0..STEPS {
                let x = load(&digits[row][at][step]);
                for pair in 0..PAIRS {
                    sums[row][pair] = usmmla(sums[row][pair], codes[step][pair], x);
                }
            }
        }
    }
    sums.map(|[a, b]| vaddq_s32(vshlq_n_s32::<8>(vuzp1q_s32(a, b)), vuzp2q_s32(a, b)))
}

/// Returns the first halves of both.
#[inline(always)]
fn low_halves(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    vreinterpretq_u8_u64(vtrn1q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)))
}

/// Returns the second halves of both.
#[inline(always)]
fn high_halves(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    vreinterpretq_u8_u64(vtrn2q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)))
}

/// Arranges whole lines of codes in the order in which [`multiply`] reads them, 8 upper digits and 8 lower ones at a
/// time. Codes of 4 bits: those for the lower halves of 8 bytes, then those for the upper halves.
pub(super) fn arrange(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    let mut planes = zero_planes(codes);
    let vectors = bytemuck::cast_slice_mut::<Plane, [u8; VECTOR_BYTES]>(&mut planes);
    let nibbles = 8 / bits.width();
    for (vectors, codes) in vectors.chunks_exact_mut(nibbles).zip(codes.chunks_exact(nibbles * DEPTH)) {
        for (nibble, vector) in vectors.iter_mut().enumerate() {
            for at in 0..DEPTH {
                (vector[at], vector[DEPTH + at]) = digits_of(codes[at * nibbles + nibble]);
            }
        }
    }
    planes
}
