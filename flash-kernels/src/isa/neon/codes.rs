//! Few rows of activations: dot products straight from the stored codes.
//!
//! Codes are not transposed: shifts and masks extract two of them per word in the vector of their row, and only the
//! sums are rearranged across rows.

use std::ops::Range;
use std::sync::Arc;

use super::floats::decode;
use super::intrinsics::*;
use super::vectors::{VECTOR_BYTES, load, pair};
use super::{LANES, QUADS};
use crate::activations::{FixedVector, Plane, arrange_words};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::tile::{CodeBits, CodeRows, Lanes};

/// A stored vector.
pub(super) type Vector = [u8; VECTOR_BYTES];

/// Activations for a group of codes of `VECTORS` vectors: `PLANES` vectors for each.
pub(super) type GroupX<const VECTORS: usize, const PLANES: usize> = [[Vector; PLANES]; VECTORS];

/// Returns the dot products of a group of codes in four rows with `M` rows of activations.
pub(super) trait GroupDots<const VECTORS: usize, const PLANES: usize, const M: usize>:
    Copy + Fn([&[Vector; VECTORS]; LANES], [&GroupX<VECTORS, PLANES>; M]) -> [int32x4_t; M]
{
}

impl<const VECTORS: usize, const PLANES: usize, const M: usize, F> GroupDots<VECTORS, PLANES, M> for F where
    F: Copy + Fn([&[Vector; VECTORS]; LANES], [&GroupX<VECTORS, PLANES>; M]) -> [int32x4_t; M]
{
}

/// Calls a function with two constants: vectors per group, and planes of activations per vector (4 for codes of 4 bits, 2
/// for codes of 8). A third one is that of its arguments.
macro_rules! call_for_format {
    ($codes:expr, $function:ident $arguments:tt) => {
        match ($codes.bits, $codes.group) {
            (CodeBits::Four, 32) => $function::<1, 4, _> $arguments,
            (CodeBits::Four, 64) => $function::<2, 4, _> $arguments,
            (CodeBits::Four, _) => $function::<4, 4, _> $arguments,
            (CodeBits::Eight, 32) => $function::<2, 2, _> $arguments,
            (CodeBits::Eight, 64) => $function::<4, 2, _> $arguments,
            (CodeBits::Eight, _) => $function::<8, 2, _> $arguments,
        }
    };
}
pub(super) use call_for_format;

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    let (x, acc) = (x.as_chunks::<1>().0, acc.as_chunks_mut().0);
    call_for_format!(tile.codes, multiply_each(tile, x, acc));
}

fn multiply_each<const VECTORS: usize, const PLANES: usize, const M: usize>(
    tile: &AffineTile<'_>,
    x: &[[Arc<FixedVector>; M]],
    acc: &mut [[Lanes; M]],
) {
    for (x, acc) in x.iter().zip(acc) {
        multiply_rows(tile, x, acc, |rows, x| {
            let mut of_rows = [vdupq_n_s32(0); M];
            for (dots, x) in of_rows.iter_mut().zip(x) {
                *dots = dots_of::<VECTORS, PLANES>(rows, x);
            }
            of_rows
        });
    }
}

/// Adds to `acc` the dot products of `M` rows of activations, with those of a group from `dots`.
#[inline(always)]
pub(super) fn multiply_rows<const VECTORS: usize, const PLANES: usize, const M: usize>(
    tile: &AffineTile<'_>,
    x: &[Arc<FixedVector>; M],
    acc: &mut [Lanes; M],
    dots: impl GroupDots<VECTORS, PLANES, M>,
) {
    assert!(tile.codes.bits.bytes(tile.codes.group) == VECTORS * VECTOR_BYTES);
    let mut chains = [[Lanes::ZERO; CHAINS]; M];
    let [mut scales, mut biases] = [[Lanes::ZERO; CHAINS]; 2];
    // One group of each chain at a time.
    for start in (0..tile.n_groups()).step_by(CHAINS) {
        let groups = start..tile.n_groups().min(start + CHAINS);
        decode(tile.scales, groups.clone(), &mut scales[..groups.len()]);
        decode(tile.biases, groups.clone(), &mut biases[..groups.len()]);
        multiply_groups(tile.codes, groups, (&scales, &biases), x, &mut chains, dots);
    }
    for (acc, chains) in acc.iter_mut().zip(&chains) {
        chains.iter().for_each(|chain| acc.add(chain));
    }
}

#[inline(always)]
fn multiply_groups<const VECTORS: usize, const PLANES: usize, const M: usize>(
    rows: CodeRows<'_>,
    groups: Range<usize>,
    (scales, biases): (&[Lanes; CHAINS], &[Lanes; CHAINS]),
    x: &[Arc<FixedVector>; M],
    chains: &mut [[Lanes; CHAINS]; M],
    dots: impl GroupDots<VECTORS, PLANES, M>,
) {
    let mut planes: [&[GroupX<VECTORS, PLANES>]; M] = [&[]; M];
    // Both are padded to a multiple of `CHAINS`.
    let mut terms: [[&[f32]; 2]; M] = [[&[]; 2]; M];
    for row in 0..M {
        let vectors: &[Vector] = bytemuck::cast_slice(&x[row].planes);
        planes[row] = &vectors.as_chunks().0.as_chunks().0[groups.clone()];
        terms[row] = [&x[row].scales[groups.start..][..CHAINS], &x[row].sums[groups.start..][..CHAINS]];
    }
    for quad in 0..QUADS {
        let mut codes: [&[[Vector; VECTORS]]; LANES] = [&[]; LANES];
        for (lane, codes) in codes.iter_mut().enumerate() {
            *codes = &rows.rows.row(quad * LANES + lane).as_chunks().0.as_chunks().0[groups.clone()];
        }
        for group in 0..groups.len().min(CHAINS) {
            let mut x: [&GroupX<VECTORS, PLANES>; M] = [&[[[0; VECTOR_BYTES]; PLANES]; VECTORS]; M];
            for (x, planes) in x.iter_mut().zip(&planes) {
                *x = &planes[group];
            }
            let [a, b, c, d] = codes;
            let dots = dots([&a[group], &b[group], &c[group], &d[group]], x);
            let (scale, bias) = (scales[group].load_128(quad), biases[group].load_128(quad));
            for row in 0..M {
                let [x_scales, x_sums] = terms[row];
                let scaled = vmulq_n_f32(vcvtq_f32_s32(dots[row]), x_scales[group]);
                let sum = vfmaq_f32(chains[row][group].load_128(quad), scaled, scale);
                chains[row][group].store_128(quad, vfmaq_n_f32(sum, bias, x_sums[group]));
            }
        }
    }
}

/// Dot products of codes as 16-bit numbers.
#[inline]
fn dots_of<const VECTORS: usize, const PLANES: usize>(
    rows: [&[Vector; VECTORS]; LANES],
    x: &GroupX<VECTORS, PLANES>,
) -> int32x4_t {
    let mut low = [vdupq_n_s32(0); LANES];
    let mut high = low;
    for at in 0..VECTORS {
        for lane in 0..LANES {
            let words = vreinterpretq_u16_u8(load(&rows[lane][at]));
            for (shift, x) in x[at].iter().enumerate() {
                let x = vreinterpretq_s16_u8(load(x));
                let codes = if PLANES == 4 { pair::<4>(words, shift) } else { pair::<8>(words, shift) };
                low[lane] = vmlal_s16(low[lane], vget_low_s16(codes), vget_low_s16(x));
                high[lane] = vmlal_high_s16(high[lane], codes, x);
            }
        }
    }
    let mut sums = low;
    for lane in 0..LANES {
        sums[lane] = vpaddq_s32(low[lane], high[lane]);
    }
    vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]))
}

/// [`arrange_words`], vector by vector.
pub(super) fn arrange(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    by_vectors(bits, &arrange_words(bits, codes))
}

/// Rearranges the planes of each line: those of its first vector, those of the second, and so on.
pub(super) fn by_vectors(bits: CodeBits, planes: &[Plane]) -> Vec<Plane> {
    let mut out = planes.to_vec();
    let n_planes = bits.word_codes() / 2;
    for (out, planes) in out.chunks_exact_mut(n_planes).zip(planes.chunks_exact(n_planes)) {
        let out: &mut [Vector] = bytemuck::cast_slice_mut(out);
        for (idx, out) in out.iter_mut().enumerate() {
            *out = planes[idx % n_planes].0.as_chunks().0[idx / n_planes];
        }
    }
    out
}
