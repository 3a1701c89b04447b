//! Kernels in plain Rust: the reference for the others, and the fallback.

use std::ops::Range;
use std::sync::Arc;

use super::{FloatInput, Kernels, Sums};
use crate::activations::{
    FixedRows, FixedVector, LINE_BYTES, ROW_TILE, Terms, arrange_words, pack_rows, quantize_group, row_pairs,
};
use crate::affine_tile::AffineTile;
use crate::attention::{axpby, dequantize};
use crate::chains::{CHAINS, Link};
use crate::elementwise::{gate_slice, rms_norm_row, softmax_numerators};
use crate::prefetch::Prefetch;
use crate::recurrent::{convolve_row, delta_step, selective_step};
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, FloatRows, GroupLanes, LaneRows, Lanes, TILE};
use crate::widen::widen;

pub(super) static KERNELS: Kernels = Kernels {
    rows_direct: 4,
    prefetch: Prefetch::Near,
    prefetches: &[Prefetch::Near],
    strips: None,
    strips_bits: &[],
    quantize_group,
    row_pairs,
    pack_rows,
    arrange: arrange_words,
    widen,
    decode,
    multiply_codes,
    unpack_codes,
    multiply_panel,
    multiply_floats,
    multiply_lanes,
    rms_norm: rms_norm_row,
    gate: gate_slice,
    axpby,
    convolve: convolve_row,
    selective_step,
    delta_step,
    softmax_numerators,
    dequantize,
};

/// 32-bit words of codes per line.
const LINE_WORDS: usize = LINE_BYTES / 4;

/// Columns of floating-point weights decoded at a time.
const COLUMNS: usize = 16;

fn decode(rows: FloatRows<'_>, columns: Range<usize>, out: &mut [Lanes]) {
    for lane in 0..TILE {
        let row = rows.rows.row(lane);
        for (out, column) in out.iter_mut().zip(columns.clone()) {
            out.0[lane] = rows.float.get(row, column);
        }
    }
}

fn multiply_codes(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    x.iter().zip(acc).for_each(|(x, acc)| multiply_row(tile, x, acc));
}

fn multiply_row(tile: &AffineTile<'_>, x: &FixedVector, acc: &mut Lanes) {
    let rows = tile.codes;
    let bits = rows.bits;
    let shifts = bits.word_codes() / 2;
    let group_words = rows.group / bits.word_codes();
    let mut chains = [Lanes::ZERO; CHAINS];
    let [mut scale, mut bias] = [[Lanes::ZERO]; 2];
    for group_idx in 0..tile.n_groups() {
        let terms = Terms { scale: x.scales[group_idx], sum: x.sums[group_idx] };
        decode(tile.scales, group_idx..group_idx + 1, &mut scale);
        decode(tile.biases, group_idx..group_idx + 1, &mut bias);
        for (lane, chain) in chains[group_idx % CHAINS].0.iter_mut().enumerate() {
            let words = &rows.rows.row(lane).as_chunks::<4>().0[group_idx * group_words..][..group_words];
            let mut dot = 0;
            for (word_idx, word) in (group_idx * group_words..).zip(words) {
                let word = u32::from_le_bytes(*word);
                for shift in 0..shifts {
                    let plane = &x.planes[word_idx / LINE_WORDS * shifts + shift].0.as_chunks::<4>().0;
                    let [a, b, c, d] = plane[word_idx % LINE_WORDS];
                    let [low, high] = pair(bits, word, shift);
                    dot += i32::from(low) * i32::from(i16::from_le_bytes([a, b]));
                    dot += i32::from(high) * i32::from(i16::from_le_bytes([c, d]));
                }
            }
            add(chain, dot, terms, scale[0].0[lane], bias[0].0[lane]);
        }
    }
    chains.iter().for_each(|chain| acc.add(chain));
}

/// Returns the codes that a right shift by `shift` codes leaves in the halves of a word.
fn pair(bits: CodeBits, word: u32, shift: usize) -> [i16; 2] {
    let mask = (1 << bits.width()) - 1;
    let shifted = word >> (shift * bits.width());
    [shifted & mask, shifted >> 16 & mask].map(|code| code as i16)
}

/// Adds one group to a chain.
fn add(chain: &mut f32, dot: i32, terms: Terms, scale: f32, bias: f32) {
    *chain = (dot as f32 * terms.scale).mul_add(scale, *chain);
    *chain = terms.sum.mul_add(bias, *chain);
}

fn unpack_codes(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    let (bits, group) = (rows.bits, rows.group);
    let group_bytes = bits.bytes(group);
    panel.pairs.resize(links.len() * group / 2, CodePairs([[0; 2]; TILE]));
    let word_pairs = bits.word_codes() / 2;
    for (link, pairs) in links.iter().zip(panel.pairs.chunks_exact_mut(group / 2)) {
        for lane in 0..TILE {
            let words = rows.rows.row(lane)[link.group_idx * group_bytes..][..group_bytes].as_chunks::<4>().0;
            for (pairs, word) in pairs.chunks_exact_mut(word_pairs).zip(words) {
                let word = u32::from_le_bytes(*word);
                for (shift, out) in pairs.iter_mut().enumerate() {
                    out.0[lane] = pair(bits, word, shift);
                }
            }
        }
    }
}

fn multiply_panel(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    Sums { chain, acc }: Sums<'_>,
) {
    for (link_idx, pairs) in links.zip(panel.pairs.chunks_exact(x.group / 2)) {
        let Link { group_idx, is_first, is_last } = x.links[link_idx];
        let (scale, bias) = (&scales.scales[group_idx].0, &scales.biases[group_idx].0);
        for (row_idx, (chain, acc)) in chain.iter_mut().zip(&mut *acc).enumerate() {
            let (tile, row) = (x.tile_idx(link_idx, row_idx / ROW_TILE), row_idx % ROW_TILE);
            let mut dots = [0; TILE];
            for (x, weights) in x.tile_pairs(tile).iter().zip(pairs) {
                let [x0, x1] = x.0[row].map(i32::from);
                for (dot, [w0, w1]) in dots.iter_mut().zip(&weights.0) {
                    *dot += x0 * i32::from(*w0) + x1 * i32::from(*w1);
                }
            }
            if is_first {
                *chain = Lanes::ZERO;
            }
            for (lane, chain) in chain.0.iter_mut().enumerate() {
                add(chain, dots[lane], x.terms[tile][row], scale[lane], bias[lane]);
            }
            if is_last {
                acc.add(chain);
            }
        }
    }
}

fn multiply_floats(rows: FloatRows<'_>, x: &[f32], acc: &mut Lanes) {
    let mut weights = [Lanes::ZERO; COLUMNS];
    for start in (0..x.len()).step_by(COLUMNS) {
        let columns = start..x.len().min(start + COLUMNS);
        let weights = &mut weights[..columns.len()];
        decode(rows, columns, weights);
        multiply_lanes(
            (&*weights).into(),
            start,
            FloatInput { values: x, k: x.len() },
            std::slice::from_mut(acc),
        );
    }
}

fn multiply_lanes(weights: LaneRows<'_>, column_start: usize, x: FloatInput<'_>, acc: &mut [Lanes]) {
    for (acc, x) in acc.iter_mut().zip(x.values.chunks_exact(x.k)) {
        for (column, x) in x[column_start..][..weights.len()].iter().enumerate() {
            for (acc, weight) in acc.0.iter_mut().zip(weights.row(column)) {
                *acc += x * weight;
            }
        }
    }
}
