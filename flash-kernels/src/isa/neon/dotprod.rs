//! Few rows of activations, where the processor adds the products of four bytes at a time (`FEAT_DotProd`).
//!
//! Codes are multiplied byte by byte with two signed 8-bit digits of the activations.

use std::ops::Range;
use std::sync::Arc;

use super::LANES;
use super::codes::{LINE_VECTORS, RowVectors, multiply_row};
use super::intrinsics::*;
use super::vectors::load;
use crate::activations::{FixedVector, Plane};
use crate::affine_tile::AffineTile;
use crate::tile::{CodeBits, Lanes};

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    for (x, acc) in x.iter().zip(acc) {
        multiply_row(tile, x, acc, |bits, rows, range, planes| match bits {
            CodeBits::Four => dots_of_nibbles(rows, range, planes),
            CodeBits::Eight => dots_of_bytes(rows, range, planes),
        });
    }
}

/// Dot products of codes of 4 bits.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
fn dots_of_nibbles(rows: RowVectors<'_>, range: Range<usize>, planes: &[Plane]) -> int32x4_t {
    let mask = vdupq_n_u8(15);
    let mut upper = [vdupq_n_s32(0); LANES];
    let mut lower = upper;
    for at in range {
        let x = digits::<4>(planes, at);
        for row in 0..LANES {
            let bytes = load(&rows[row][at]);
            let (low, high) = (vandq_u8(bytes, mask), vshrq_n_u8::<4>(bytes));
            upper[row] = sdot(sdot(upper[row], low, x[0]), high, x[1]);
            lower[row] = sdot(sdot(lower[row], low, x[2]), high, x[3]);
        }
    }
    add_rows(upper, lower)
}

/// Dot products of codes of 8 bits. The instruction takes signed bytes, so codes are reduced by 128, and 128 times the
/// activations are added.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
fn dots_of_bytes(rows: RowVectors<'_>, range: Range<usize>, planes: &[Plane]) -> int32x4_t {
    let sign = vdupq_n_u8(128);
    let mut upper = [vdupq_n_s32(0); LANES];
    let mut lower = upper;
    // The negated products of the activations with 128.
    let (mut upper_x, mut lower_x) = (vdupq_n_s32(0), vdupq_n_s32(0));
    for at in range {
        let x = digits::<2>(planes, at);
        (upper_x, lower_x) = (sdot(upper_x, sign, x[0]), sdot(lower_x, sign, x[1]));
        for row in 0..LANES {
            let codes = veorq_u8(load(&rows[row][at]), sign);
            (upper[row], lower[row]) = (sdot(upper[row], codes, x[0]), sdot(lower[row], codes, x[1]));
        }
    }
    for row in 0..LANES {
        upper[row] = vsubq_s32(upper[row], upper_x);
        lower[row] = vsubq_s32(lower[row], lower_x);
    }
    add_rows(upper, lower)
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

/// Adds the lanes of each row: 256 times those of the upper digits, and those of the lower.
#[inline(always)]
fn add_rows(upper: [int32x4_t; LANES], lower: [int32x4_t; LANES]) -> int32x4_t {
    let add =
        |rows: [int32x4_t; LANES]| vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]));
    vaddq_s32(vshlq_n_s32::<8>(add(upper)), add(lower))
}
