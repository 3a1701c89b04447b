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

/// Returns the dot products of the vectors of a group in four rows with activations, whose planes start at the first
/// group that the rows have.
pub(super) trait GroupDots:
    Copy + Fn(CodeBits, RowVectors<'_>, Range<usize>, &[Plane]) -> int32x4_t
{
}

impl<F: Copy + Fn(CodeBits, RowVectors<'_>, Range<usize>, &[Plane]) -> int32x4_t> GroupDots for F {}

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    x.iter().zip(acc).for_each(|(x, acc)| multiply_row(tile, x, acc, multiply_group));
}

/// Adds to `acc` the dot products of one row of activations, with those of a group from `dots`.
#[inline(always)]
pub(super) fn multiply_row(tile: &AffineTile<'_>, x: &FixedVector, acc: &mut Lanes, dots: impl GroupDots) {
    let mut chains = [Lanes::ZERO; CHAINS];
    let [mut scales, mut biases] = [[Lanes::ZERO; CHAINS]; 2];
    // One group of each chain at a time.
    for start in (0..tile.n_groups()).step_by(CHAINS) {
        let groups = start..tile.n_groups().min(start + CHAINS);
        decode(tile.scales, groups.clone(), &mut scales[..groups.len()]);
        decode(tile.biases, groups.clone(), &mut biases[..groups.len()]);
        multiply_groups(tile.codes, groups, (&scales, &biases), x, &mut chains, dots);
    }
    chains.iter().for_each(|chain| acc.add(chain));
}

#[inline(always)]
fn multiply_groups(
    rows: CodeRows<'_>,
    groups: Range<usize>,
    (scales, biases): (&[Lanes; CHAINS], &[Lanes; CHAINS]),
    x: &FixedVector,
    chains: &mut [Lanes; CHAINS],
    dots: impl GroupDots,
) {
    let bytes = rows.bits.bytes(groups.start * rows.group)..rows.bits.bytes(groups.end * rows.group);
    let group_vectors = rows.bits.bytes(rows.group) / VECTOR_BYTES;
    let planes = &x.planes[bytes.start / LINE_BYTES * rows.bits.word_codes() / 2..];
    let terms = x.scales[groups.clone()].iter().zip(&x.sums[groups]);
    for quad in 0..QUADS {
        let vectors: RowVectors<'_> = std::array::from_fn(|lane| {
            rows.rows.row(quad * LANES + lane)[bytes.clone()].as_chunks::<VECTOR_BYTES>().0
        });
        for (group, (x_scale, x_sum)) in terms.clone().enumerate() {
            let range = group * group_vectors..(group + 1) * group_vectors;
            let scaled = vmulq_n_f32(vcvtq_f32_s32(dots(rows.bits, vectors, range, planes)), *x_scale);
            let sum = vfmaq_f32(chains[group].load_128(quad), scaled, scales[group].load_128(quad));
            chains[group].store_128(quad, vfmaq_n_f32(sum, biases[group].load_128(quad), *x_sum));
        }
    }
}

fn multiply_group(bits: CodeBits, rows: RowVectors<'_>, range: Range<usize>, planes: &[Plane]) -> int32x4_t {
    match bits {
        CodeBits::Four => multiply_group_of::<4, 4>(rows, range, planes),
        CodeBits::Eight => multiply_group_of::<8, 2>(rows, range, planes),
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
