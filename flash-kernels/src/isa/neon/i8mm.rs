//! Few rows of activations, where the processor multiplies matrices of bytes (`FEAT_I8MM`).
//!
//! An instruction multiplies 8 codes of two rows of weights with two rows of 8 signed bytes: the upper and the lower
//! digits of one row of activations.

use std::sync::Arc;

use super::LANES;
use super::codes::{GroupX, Vector, call_for_format, multiply_rows};
use super::intrinsics::*;
use super::vectors::load;
use crate::activations::FixedVector;
use crate::affine_tile::AffineTile;
use crate::tile::{CodeBits, Lanes};

/// Pairs of rows of weights in four rows.
pub(super) const PAIRS: usize = LANES / 2;

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes): four rows of activations at a time, then two and
/// one.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "i8mm"))]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    let ((fours, x), (acc_fours, acc)) = (x.as_chunks::<4>(), acc.as_chunks_mut());
    call_for_format!(tile.codes, multiply_each(tile, fours, acc_fours));
    let ((pairs, x), (acc_pairs, acc)) = (x.as_chunks::<2>(), acc.as_chunks_mut());
    call_for_format!(tile.codes, multiply_each(tile, pairs, acc_pairs));
    let (x, acc) = (x.as_chunks::<1>().0, acc.as_chunks_mut().0);
    call_for_format!(tile.codes, multiply_each(tile, x, acc));
}

#[cfg_attr(target_arch = "aarch64", target_feature(enable = "i8mm"))]
#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(clippy::redundant_closure, reason = "functions that require CPU features do not implement `Fn`")
)]
fn multiply_each<const VECTORS: usize, const PLANES: usize, const M: usize>(
    tile: &AffineTile<'_>,
    x: &[[Arc<FixedVector>; M]],
    acc: &mut [[Lanes; M]],
) {
    for (x, acc) in x.iter().zip(acc) {
        multiply_rows(tile, x, acc, |rows, x| dots::<VECTORS, PLANES, M>(rows, x));
    }
}

/// [`GroupDots`](super::codes::GroupDots).
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "i8mm"))]
#[inline]
fn dots<const VECTORS: usize, const PLANES: usize, const M: usize>(
    rows: [&[Vector; VECTORS]; LANES],
    x: [&GroupX<VECTORS, PLANES>; M],
) -> [int32x4_t; M] {
    // Each the products of two rows of weights with the upper and the lower digits: a matrix, row-major.
    let mut sums = [[vdupq_n_s32(0); PAIRS]; M];
    for at in 0..VECTORS {
        let codes = extract::<PLANES>([&rows[0][at], &rows[1][at], &rows[2][at], &rows[3][at]]);
        for row in 0..M {
            for plane in 0..PLANES {
                let x = load(&x[row][at][plane]);
                for pair in 0..PAIRS {
                    sums[row][pair] = usmmla(sums[row][pair], codes[plane][pair], x);
                }
            }
        }
    }
    // A loop instead of a closure, which is not inlined here: `array::map` lacks the CPU feature.
    let mut dots = [vdupq_n_s32(0); M];
    for row in 0..M {
        dots[row] = add_digits(sums[row]);
    }
    dots
}

/// Extracts the codes of a vector of each of four rows, 8 of each row at a time, in the order of the
/// [digits](super::digits).
#[inline(always)]
pub(super) fn extract<const STEPS: usize>(rows: [&Vector; LANES]) -> [[uint8x16_t; PAIRS]; STEPS] {
    let mask = vdupq_n_u8(15);
    let mut codes = [[mask; PAIRS]; STEPS];
    for pair in 0..PAIRS {
        let (first, second) = (load(rows[2 * pair]), load(rows[2 * pair + 1]));
        let halves = [low_halves(first, second), high_halves(first, second)];
        for half in 0..2 {
            if STEPS == 4 {
                codes[2 * half][pair] = vandq_u8(halves[half], mask);
                codes[2 * half + 1][pair] = vshrq_n_u8::<4>(halves[half]);
            } else {
                codes[half][pair] = halves[half];
            }
        }
    }
    codes
}

/// Returns the dot products of four rows of weights: 256 times those with the upper digits, and those with the lower.
#[inline(always)]
pub(super) fn add_digits([a, b]: [int32x4_t; PAIRS]) -> int32x4_t {
    vaddq_s32(vshlq_n_s32::<8>(vuzp1q_s32(a, b)), vuzp2q_s32(a, b))
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
