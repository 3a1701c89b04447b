//! Few rows of activations, where the processor adds the products of four bytes at a time (`FEAT_DotProd`).
//!
//! Codes are multiplied byte by byte with two signed 8-bit digits of the activations. Arrays are filled in loops: closures
//! are not inlined, since `array::map` lacks the CPU feature.

use std::sync::Arc;

use super::LANES;
use super::codes::{GroupX, Vector, by_vectors, call_for_format, multiply_rows};
use super::intrinsics::*;
use super::vectors::load;
use crate::activations::{FixedVector, Plane, arrange_digits};
use crate::affine_tile::AffineTile;
use crate::tile::{CodeBits, Lanes};

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes): two rows of activations at a time, whose sums and
/// operands fill the registers.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    let ((pairs, x), (acc_pairs, acc)) = (x.as_chunks::<2>(), acc.as_chunks_mut());
    call_for_format!(tile.codes, multiply_each(tile, pairs, acc_pairs));
    let (x, acc) = (x.as_chunks::<1>().0, acc.as_chunks_mut().0);
    call_for_format!(tile.codes, multiply_each(tile, x, acc));
}

#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
fn multiply_each<const VECTORS: usize, const PLANES: usize, const M: usize>(
    tile: &AffineTile<'_>,
    x: &[[Arc<FixedVector>; M]],
    acc: &mut [[Lanes; M]],
) {
    for (x, acc) in x.iter().zip(acc) {
        multiply_rows(tile, x, acc, |rows, x| {
            if PLANES == 4 {
                dots_of_nibbles::<VECTORS, PLANES, M>(rows, x)
            } else {
                dots_of_bytes::<VECTORS, PLANES, M>(rows, x)
            }
        });
    }
}

/// Dot products of codes of 4 bits.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
#[inline]
fn dots_of_nibbles<const VECTORS: usize, const PLANES: usize, const M: usize>(
    rows: [&[Vector; VECTORS]; LANES],
    x: [&GroupX<VECTORS, PLANES>; M],
) -> [int32x4_t; M] {
    let mask = vdupq_n_u8(15);
    let mut upper = [[vdupq_n_s32(0); LANES]; M];
    let mut lower = upper;
    for at in 0..VECTORS {
        for lane in 0..LANES {
            let bytes = load(&rows[lane][at]);
            let (low, high) = (vandq_u8(bytes, mask), vshrq_n_u8::<4>(bytes));
            for row in 0..M {
                let x = &x[row][at];
                upper[row][lane] = sdot(sdot(upper[row][lane], low, load(&x[0])), high, load(&x[1]));
                lower[row][lane] = sdot(sdot(lower[row][lane], low, load(&x[2])), high, load(&x[3]));
            }
        }
    }
    add_lanes(upper, lower)
}

/// Dot products of codes of 8 bits. The instruction takes signed bytes, so codes are reduced by 128, and 128 times the
/// activations are added.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
#[inline]
fn dots_of_bytes<const VECTORS: usize, const PLANES: usize, const M: usize>(
    rows: [&[Vector; VECTORS]; LANES],
    x: [&GroupX<VECTORS, PLANES>; M],
) -> [int32x4_t; M] {
    let sign = vdupq_n_u8(128);
    let mut upper = [[vdupq_n_s32(0); LANES]; M];
    let mut lower = upper;
    // The negated products of the activations with 128.
    let mut of_sign = [[vdupq_n_s32(0); 2]; M];
    for at in 0..VECTORS {
        for row in 0..M {
            for digit in 0..2 {
                of_sign[row][digit] = sdot(of_sign[row][digit], sign, load(&x[row][at][digit]));
            }
        }
        for lane in 0..LANES {
            let codes = veorq_u8(load(&rows[lane][at]), sign);
            for row in 0..M {
                upper[row][lane] = sdot(upper[row][lane], codes, load(&x[row][at][0]));
                lower[row][lane] = sdot(lower[row][lane], codes, load(&x[row][at][1]));
            }
        }
    }
    for row in 0..M {
        for lane in 0..LANES {
            upper[row][lane] = vsubq_s32(upper[row][lane], of_sign[row][0]);
            lower[row][lane] = vsubq_s32(lower[row][lane], of_sign[row][1]);
        }
    }
    add_lanes(upper, lower)
}

/// Adds the words of each vector: 256 times those of the upper digits, and those of the lower.
#[inline(always)]
fn add_lanes<const M: usize>(
    upper: [[int32x4_t; LANES]; M],
    lower: [[int32x4_t; LANES]; M],
) -> [int32x4_t; M] {
    let add = |rows: [_; LANES]| vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]));
    let mut dots = [vdupq_n_s32(0); M];
    for row in 0..M {
        dots[row] = vaddq_s32(vshlq_n_s32::<8>(add(upper[row])), add(lower[row]));
    }
    dots
}

/// [`arrange_digits`], vector by vector.
pub(super) fn arrange(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    by_vectors(bits, &arrange_digits(bits, codes))
}
