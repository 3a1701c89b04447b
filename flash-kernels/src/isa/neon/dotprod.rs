//! Few rows of activations, where the processor adds the products of four bytes at a time (`FEAT_DotProd`).
//!
//! Codes are multiplied byte by byte with two signed 8-bit digits of the activations. Arrays are filled in loops: closures
//! are not inlined, since `array::map` lacks the CPU feature.

use std::ops::Range;
use std::sync::Arc;

use super::LANES;
use super::codes::{LINE_VECTORS, RowVectors, multiply_rows};
use super::intrinsics::*;
use super::vectors::load;
use crate::activations::{FixedVector, Plane};
use crate::affine_tile::AffineTile;
use crate::tile::{CodeBits, Lanes};

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes): two rows of activations at a time, whose sums and
/// operands fill the registers.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    let ((pairs, x), (acc_pairs, acc)) = (x.as_chunks::<2>(), acc.as_chunks_mut::<2>());
    multiply_each(tile, pairs, acc_pairs);
    multiply_each(tile, x.as_chunks::<1>().0, acc.as_chunks_mut::<1>().0);
}

/// Multiplies `M` rows of activations at a time.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
fn multiply_each<const M: usize>(tile: &AffineTile<'_>, x: &[[Arc<FixedVector>; M]], acc: &mut [[Lanes; M]]) {
    for (x, acc) in x.iter().zip(acc) {
        multiply_rows(tile, x, acc, |bits, rows, range, planes| match bits {
            CodeBits::Four => dots_of_nibbles(rows, range, planes),
            CodeBits::Eight => dots_of_bytes(rows, range, planes),
        });
    }
}

/// Dot products of codes of 4 bits.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
fn dots_of_nibbles<const M: usize>(
    rows: RowVectors<'_>,
    range: Range<usize>,
    planes: [&[Plane]; M],
) -> [int32x4_t; M] {
    let (mask, zero) = (vdupq_n_u8(15), vdupq_n_u8(0));
    let mut upper = [[vdupq_n_s32(0); LANES]; M];
    let mut lower = upper;
    for at in range {
        let mut x = [[zero; 4]; M];
        for row in 0..M {
            x[row] = digits(planes[row], at);
        }
        for lane in 0..LANES {
            let bytes = load(&rows[lane][at]);
            let (low, high) = (vandq_u8(bytes, mask), vshrq_n_u8::<4>(bytes));
            for row in 0..M {
                upper[row][lane] = sdot(sdot(upper[row][lane], low, x[row][0]), high, x[row][1]);
                lower[row][lane] = sdot(sdot(lower[row][lane], low, x[row][2]), high, x[row][3]);
            }
        }
    }
    add_lanes(upper, lower)
}

/// Dot products of codes of 8 bits. The instruction takes signed bytes, so codes are reduced by 128, and 128 times the
/// activations are added.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
fn dots_of_bytes<const M: usize>(
    rows: RowVectors<'_>,
    range: Range<usize>,
    planes: [&[Plane]; M],
) -> [int32x4_t; M] {
    let (sign, zero) = (vdupq_n_u8(128), vdupq_n_u8(0));
    let mut upper = [[vdupq_n_s32(0); LANES]; M];
    let mut lower = upper;
    // The negated products of the activations with 128.
    let mut of_sign = [[vdupq_n_s32(0); 2]; M];
    for at in range {
        let mut x = [[zero; 2]; M];
        for row in 0..M {
            x[row] = digits(planes[row], at);
        }
        for row in 0..M {
            for digit in 0..2 {
                of_sign[row][digit] = sdot(of_sign[row][digit], sign, x[row][digit]);
            }
        }
        for lane in 0..LANES {
            let codes = veorq_u8(load(&rows[lane][at]), sign);
            for row in 0..M {
                upper[row][lane] = sdot(upper[row][lane], codes, x[row][0]);
                lower[row][lane] = sdot(lower[row][lane], codes, x[row][1]);
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

/// Returns the activations of a vector of codes in each plane of its line.
#[inline(always)]
fn digits<const PLANES: usize>(planes: &[Plane], at: usize) -> [uint8x16_t; PLANES] {
    let planes = &planes.as_chunks::<PLANES>().0[at / LINE_VECTORS];
    let mut digits = [vdupq_n_u8(0); PLANES];
    for (digits, plane) in digits.iter_mut().zip(planes) {
        *digits = load(&plane.0.as_chunks().0[at % LINE_VECTORS]);
    }
    digits
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
