//! Many rows of activations: a panel of codes is unpacked once and multiplied with all of them.

use std::ops::Range;

use super::intrinsics::*;
use super::vectors::{VECTOR_BYTES, load, pair, splat, transpose};
use super::{LANES, QUADS};
use crate::activations::{FixedRows, ROW_STEP, ROW_TILE, Terms};
use crate::chains::Link;
use crate::isa::Sums;
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, GroupLanes, Lanes, TILE};

/// Vectors of weights multiplied with [`ROW_STEP`] rows at a time: their sums (two vectors each) and operands fill the
/// registers.
pub(super) const QUADS_STEP: usize = 2;

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes).
pub(super) fn unpack(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    panel.pairs.resize(links.len() * rows.group / 2, CodePairs([[0; 2]; TILE]));
    let group_bytes = rows.bits.bytes(rows.group);
    for (link, pairs) in links.iter().zip(panel.pairs.chunks_exact_mut(rows.group / 2)) {
        let bytes = link.group_idx * group_bytes..(link.group_idx + 1) * group_bytes;
        match rows.bits {
            CodeBits::Four => unpack_bytes::<4, 4>(rows, bytes, pairs),
            CodeBits::Eight => unpack_bytes::<8, 2>(rows, bytes, pairs),
        }
    }
}

/// Unpacks the bytes `bytes` of each row into `WORD_PAIRS` pairs per word.
fn unpack_bytes<const BITS: usize, const WORD_PAIRS: usize>(
    rows: CodeRows<'_>,
    bytes: Range<usize>,
    pairs: &mut [CodePairs],
) {
    for quad in 0..QUADS {
        let vectors: [_; LANES] = std::array::from_fn(|lane| {
            rows.rows.row(quad * LANES + lane)[bytes.clone()].as_chunks::<VECTOR_BYTES>().0
        });
        for (idx, pairs) in pairs.chunks_exact_mut(LANES * WORD_PAIRS).enumerate() {
            let mut words = [vreinterpretq_u32_u8(vdupq_n_u8(0)); LANES];
            for (words, row) in words.iter_mut().zip(vectors) {
                *words = vreinterpretq_u32_u8(load(&row[idx]));
            }
            let words = transpose(words);
            for (pairs, words) in pairs.as_chunks_mut::<WORD_PAIRS>().0.iter_mut().zip(words) {
                for (idx, out) in pairs.iter_mut().enumerate() {
                    out.store_128(quad, pair::<BITS>(vreinterpretq_u16_u32(words), idx));
                }
            }
        }
    }
}

/// Dot products of [`QUADS_STEP`] vectors of a panel with [`ROW_STEP`] rows of activations.
pub(super) type Dots = [[int32x4_t; QUADS_STEP]; ROW_STEP];

/// Returns the dot products of a group of codes, from a vector on, with the group of this index of the activations, from
/// a row of its tile on.
pub(super) trait PanelDots: Copy + Fn(&[CodePairs], usize, &FixedRows, usize, usize) -> Dots {}

impl<F: Copy + Fn(&[CodePairs], usize, &FixedRows, usize, usize) -> Dots> PanelDots for F {}

/// [`Kernels::multiply_panel`](crate::isa::Kernels::multiply_panel).
pub(super) fn multiply(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    sums: Sums<'_>,
) {
    multiply_with(panel, links, scales, x, sums, dots_of_pairs);
}

/// [`multiply`] with the dot products of a group from `dots`.
#[inline(always)]
pub(super) fn multiply_with(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    Sums { chain, acc }: Sums<'_>,
    dots: impl PanelDots,
) {
    let group_pairs = panel.pairs.len() / links.len();
    for (tile_idx, (chain, acc)) in chain.chunks_mut(ROW_TILE).zip(acc.chunks_mut(ROW_TILE)).enumerate() {
        for quad in (0..QUADS).step_by(QUADS_STEP) {
            for (link_idx, pairs) in links.clone().zip(panel.pairs.chunks_exact(group_pairs)) {
                let at = x.tile_idx(link_idx, tile_idx);
                let link = x.links[link_idx];
                let (scales, biases) = (&scales.scales[link.group_idx], &scales.biases[link.group_idx]);
                let floats =
                    [scales, biases].map(|floats| [floats.load_128(quad), floats.load_128(quad + 1)]);
                let (chain, acc) = (chain.as_chunks_mut().0, acc.as_chunks_mut().0);
                let steps = chain.iter_mut().zip(acc).zip(x.terms[at].as_chunks().0).enumerate();
                for (step, ((chain, acc), terms)) in steps {
                    add(dots(pairs, quad, x, at, step * ROW_STEP), floats, terms, link, quad, chain, acc);
                }
            }
        }
    }
}

/// Adds a group to its chain in each row of results, and the chain to the row's sum after its last group.
#[inline(always)]
fn add(
    dots: Dots,
    [scales, biases]: [[float32x4_t; QUADS_STEP]; 2],
    terms: &[Terms; ROW_STEP],
    link: Link,
    quad: usize,
    chain: &mut [Lanes; ROW_STEP],
    acc: &mut [Lanes; ROW_STEP],
) {
    for row in 0..ROW_STEP {
        for at in 0..QUADS_STEP {
            let (chain, acc) = (&mut chain[row], &mut acc[row]);
            let scaled = vmulq_n_f32(vcvtq_f32_s32(dots[row][at]), terms[row].scale);
            let sum = if link.is_first { vdupq_n_f32(0.0) } else { chain.load_128(quad + at) };
            let sum = vfmaq_n_f32(vfmaq_f32(sum, scaled, scales[at]), biases[at], terms[row].sum);
            if link.is_last {
                acc.store_128(quad + at, vaddq_f32(acc.load_128(quad + at), sum));
            } else {
                chain.store_128(quad + at, sum);
            }
        }
    }
}

/// [`PanelDots`] of pairs of 16-bit numbers.
#[inline]
fn dots_of_pairs(pairs: &[CodePairs], quad: usize, x: &FixedRows, at: usize, row_start: usize) -> Dots {
    assert!(row_start + ROW_STEP <= ROW_TILE);
    // Sums of the lower and of the upper two lanes, separately for the first and second code of a pair.
    let mut low = [[vdupq_n_s32(0); QUADS_STEP]; ROW_STEP];
    let mut high = low;
    for (pairs, x) in pairs.iter().zip(x.tile_pairs(at)) {
        let weights = [pairs.load_128(quad), pairs.load_128(quad + 1)];
        for row in 0..ROW_STEP {
            let x = splat(x.0[row_start + row]);
            for (at, weights) in weights.into_iter().enumerate() {
                low[row][at] = vmlal_s16(low[row][at], vget_low_s16(weights), vget_low_s16(x));
                high[row][at] = vmlal_high_s16(high[row][at], weights, x);
            }
        }
    }
    std::array::from_fn(|row| std::array::from_fn(|at| vpaddq_s32(low[row][at], high[row][at])))
}
