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
use crate::activations::{FixedVector, LINE_BYTES, Plane};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::tile::{CodeBits, CodeRows, Lanes};

/// Vectors per line.
pub(super) const LINE_VECTORS: usize = LINE_BYTES / VECTOR_BYTES;

/// Stored vectors of four rows.
pub(super) type RowVectors<'a> = [&'a [[u8; VECTOR_BYTES]]; LANES];

/// Returns the dot products of the vectors of a group in four rows with `M` rows of activations, whose planes start at
/// the first group that the rows have.
pub(super) trait GroupDots<const M: usize>:
    Copy + Fn(CodeBits, RowVectors<'_>, Range<usize>, [&[Plane]; M]) -> [int32x4_t; M]
{
}

impl<const M: usize, F> GroupDots<M> for F where
    F: Copy + Fn(CodeBits, RowVectors<'_>, Range<usize>, [&[Plane]; M]) -> [int32x4_t; M]
{
}

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    for (x, acc) in x.as_chunks::<1>().0.iter().zip(acc.as_chunks_mut::<1>().0) {
        multiply_rows(tile, x, acc, multiply_group);
    }
}

/// Adds to `acc` the dot products of `M` rows of activations, with those of a group from `dots`.
#[inline(always)]
pub(super) fn multiply_rows<const M: usize>(
    tile: &AffineTile<'_>,
    x: &[Arc<FixedVector>; M],
    acc: &mut [Lanes; M],
    dots: impl GroupDots<M>,
) {
    let x = x.each_ref().map(|x| &**x);
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
fn multiply_groups<const M: usize>(
    rows: CodeRows<'_>,
    groups: Range<usize>,
    (scales, biases): (&[Lanes; CHAINS], &[Lanes; CHAINS]),
    x: [&FixedVector; M],
    chains: &mut [[Lanes; CHAINS]; M],
    dots: impl GroupDots<M>,
) {
    let bytes = rows.bits.bytes(groups.start * rows.group)..rows.bits.bytes(groups.end * rows.group);
    let group_vectors = rows.bits.bytes(rows.group) / VECTOR_BYTES;
    let first_plane = bytes.start / LINE_BYTES * rows.bits.word_codes() / 2;
    let planes = x.map(|x| &x.planes[first_plane..]);
    // Both are padded to a multiple of `CHAINS`.
    let terms =
        x.map(|x| [&x.scales, &x.sums].map(|terms| &terms[groups.start..].as_chunks::<CHAINS>().0[0]));
    for quad in 0..QUADS {
        let vectors: RowVectors<'_> = std::array::from_fn(|lane| {
            rows.rows.row(quad * LANES + lane)[bytes.clone()].as_chunks::<VECTOR_BYTES>().0
        });
        for group in 0..groups.len().min(CHAINS) {
            let range = group * group_vectors..(group + 1) * group_vectors;
            let dots = dots(rows.bits, vectors, range, planes);
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

fn multiply_group(
    bits: CodeBits,
    rows: RowVectors<'_>,
    range: Range<usize>,
    [planes]: [&[Plane]; 1],
) -> [int32x4_t; 1] {
    match bits {
        CodeBits::Four => [multiply_group_of::<4, 4>(rows, range, planes)],
        CodeBits::Eight => [multiply_group_of::<8, 2>(rows, range, planes)],
    }
}

/// [`GroupDots`] of codes of `BITS`, with `PLANES` planes of activations per line.
#[inline]
fn multiply_group_of<const BITS: usize, const PLANES: usize>(
    rows: RowVectors<'_>,
    range: Range<usize>,
    planes: &[Plane],
) -> int32x4_t {
    let rows = rows.map(|row| &row[range.clone()]);
    let mut low = [vdupq_n_s32(0); LANES];
    let mut high = [vdupq_n_s32(0); LANES];
    for (idx, at) in range.enumerate() {
        let planes = &planes.as_chunks::<PLANES>().0[at / LINE_VECTORS];
        let x: [_; PLANES] = std::array::from_fn(|shift| {
            let bytes = &planes[shift].0.as_chunks::<VECTOR_BYTES>().0[at % LINE_VECTORS];
            vreinterpretq_s16_u8(load(bytes))
        });
        for (row, (low, high)) in rows.iter().zip(low.iter_mut().zip(&mut high)) {
            let words = vreinterpretq_u16_u8(load(&row[idx]));
            for (shift, x) in x.iter().enumerate() {
                let codes = pair::<BITS>(words, shift);
                *low = vmlal_s16(*low, vget_low_s16(codes), vget_low_s16(*x));
                *high = vmlal_high_s16(*high, codes, *x);
            }
        }
    }
    let sums: [_; LANES] = std::array::from_fn(|row| vpaddq_s32(low[row], high[row]));
    vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]))
}
