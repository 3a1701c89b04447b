//! Many rows of activations: a panel of codes is unpacked once and multiplied with all of them.

#![expect(unsafe_code, reason = "loads through pointers: bounds checks in the inner loop would be too slow")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::words::HalfWords;
use super::{HALVES, LANES};
use crate::activations::{FixedRows, ROW_STEP, ROW_TILE, RowPairs, SUM_BLOCKS, Terms};
use crate::chains::Link;
use crate::isa::Sums;
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, GroupLanes, IntLanes, Lanes, TILE, UNIT};

/// Pairs of codes per unit.
const UNIT_PAIRS: usize = UNIT / 2;

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes).
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn unpack(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    let group = rows.group;
    panel.pairs.resize(links.len() * group / 2, CodePairs([[0; 2]; TILE]));
    panel.cross.resize(links.len(), IntLanes([0; TILE]));
    let word_pairs = rows.bits.word_codes() / 2;
    for half in 0..HALVES {
        let words = HalfWords::new(rows, half);
        for (block_idx, pairs) in panel.pairs.chunks_mut(LANES * word_pairs).enumerate() {
            for (pairs, word) in pairs.chunks_exact_mut(word_pairs).zip(words.block(links, block_idx)) {
                for (idx, pair) in pairs.iter_mut().enumerate() {
                    let codes = match rows.bits {
                        CodeBits::Four => nibbles(word, idx),
                        CodeBits::Eight => bytes(word, idx),
                    };
                    pair.store_512(half, codes);
                }
            }
        }
        for (cross, pairs) in panel.cross.iter_mut().zip(panel.pairs.chunks_exact(group / 2)) {
            let mut sum = _mm512_setzero_si512();
            for unit in pairs.chunks_exact(UNIT_PAIRS) {
                for block in unit.as_chunks::<2>().0.iter().take(SUM_BLOCKS) {
                    sum = _mm512_dpwssd_epi32(sum, block[0].load_512(half), block[1].load_512(half));
                }
            }
            cross.store_512(half, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
        }
    }
}

/// [`Kernels::multiply_panel`](crate::isa::Kernels::multiply_panel).
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    sums: Sums<'_>,
) {
    match x.group {
        32 => multiply_groups::<32>(panel, links, scales, x, sums),
        64 => multiply_groups::<64>(panel, links, scales, x, sums),
        _ => multiply_groups::<128>(panel, links, scales, x, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_groups<const GROUP: usize>(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    Sums { chain, acc }: Sums<'_>,
) {
    for (tile_idx, (chain, acc)) in chain.chunks_mut(ROW_TILE).zip(acc.chunks_mut(ROW_TILE)).enumerate() {
        let links = links.clone();
        let tile = RowTile { x, tile_idx };
        if acc.len() == ROW_TILE {
            multiply_rows::<GROUP, ROW_TILE>(panel, links, scales, tile, 0, Sums { chain, acc });
            continue;
        }
        let steps = chain.chunks_mut(ROW_STEP).zip(acc.chunks_mut(ROW_STEP));
        for (idx, (chain, acc)) in steps.enumerate() {
            let sums = Sums { chain, acc };
            multiply_rows::<GROUP, ROW_STEP>(panel, links.clone(), scales, tile, ROW_STEP * idx, sums);
        }
    }
}

/// One tile of rows of activations.
#[derive(Clone, Copy)]
struct RowTile<'a> {
    x: &'a FixedRows,
    tile_idx: usize,
}

/// Multiplies one block as products of sums: two pairs of activations of the row `$row` of four with the weights
/// `$even` and `$odd` of both halves of the tile. The loaded activations serve both halves.
macro_rules! sum_block {
    ($row:literal, $even:literal, $odd:literal) => {
        concat!(
            "vpbroadcastd {left}, dword ptr [{x} + 64 * ",
            $even,
            " + 4 * ",
            $row,
            "]\n",
            "vpbroadcastd {right}, dword ptr [{x} + 64 * ",
            $odd,
            " + 4 * ",
            $row,
            "]\n",
            "vpaddw {upper_left}, {left}, {a",
            $odd,
            "}\n",
            "vpaddw {upper_right}, {right}, {a",
            $even,
            "}\n",
            "vpaddw {left}, {left}, {b",
            $odd,
            "}\n",
            "vpaddw {right}, {right}, {b",
            $even,
            "}\n",
            "vpdpwssd {c",
            $row,
            "}, {upper_left}, {upper_right}\n",
            "vpdpwssd {d",
            $row,
            "}, {left}, {right}",
        )
    };
}

/// Multiplies one pair of activations of the row `$row` of four with the weights `$pair` of both halves.
macro_rules! one_pair {
    ($row:literal, $pair:literal) => {
        concat!(
            "vpbroadcastd {left}, dword ptr [{x} + 64 * ",
            $pair,
            " + 4 * ",
            $row,
            "]\n",
            "vpdpwssd {c",
            $row,
            "}, {left}, {a",
            $pair,
            "}\n",
            "vpdpwssd {d",
            $row,
            "}, {left}, {b",
            $pair,
            "}",
        )
    };
}

/// Multiplies the `M` rows of a tile from `row_start` on, [`ROW_STEP`] at a time: their sums and the weights of a unit
/// are in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_rows<const GROUP: usize, const M: usize>(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    tile: RowTile<'_>,
    row_start: usize,
    Sums { chain, acc }: Sums<'_>,
) {
    assert!(M.is_multiple_of(ROW_STEP) && row_start + M <= ROW_TILE);
    let sums = (<&mut [Lanes; M]>::try_from(chain), <&mut [Lanes; M]>::try_from(acc));
    let (Ok(chain), Ok(acc)) = sums else { unreachable!("one sum per row") };
    for (idx, link_idx) in links.enumerate() {
        let at = tile.x.tile_idx(link_idx, tile.tile_idx);
        let link = tile.x.links[link_idx];
        let x_pairs = tile.x.tile_pairs(at);
        let terms = tile.x.terms[at][row_start..][..M].as_chunks::<ROW_STEP>().0;
        let x_cross = tile.x.cross[at][row_start..][..M].as_chunks::<ROW_STEP>().0;
        let pairs = &panel.pairs[idx * GROUP / 2..][..GROUP / 2];
        let cross = [0, 1].map(|half| panel.cross[idx].load_512(half));
        let scale = [0, 1].map(|half| scales.scales[link.group_idx].load_512(half));
        let bias = [0, 1].map(|half| scales.biases[link.group_idx].load_512(half));
        let sums = chain.as_chunks_mut::<ROW_STEP>().0.iter_mut().zip(acc.as_chunks_mut::<ROW_STEP>().0);
        for (step_idx, (chain, acc)) in sums.enumerate() {
            let mut dots = cross.map(|cross| [cross; ROW_STEP]);
            for row in 0..ROW_STEP {
                let x_cross = _mm512_set1_epi32(x_cross[step_idx][row]);
                for half in 0..HALVES {
                    dots[half][row] = _mm512_add_epi32(cross[half], x_cross);
                }
            }
            let units = pairs.as_chunks::<UNIT_PAIRS>().0.iter().zip(x_pairs.as_chunks::<UNIT_PAIRS>().0);
            for (unit, x_unit) in units {
                let row_idx = row_start + ROW_STEP * step_idx;
                multiply_unit(unit, x_unit, row_idx, &mut dots);
            }
            for half in 0..HALVES {
                let add = |row: usize, chain: __m512| {
                    let Terms { scale: x_scale, sum: x_sum } = terms[step_idx][row];
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[half][row]), _mm512_set1_ps(x_scale));
                    let product = _mm512_fmadd_ps(scaled, scale[half], chain);
                    _mm512_fmadd_ps(_mm512_set1_ps(x_sum), bias[half], product)
                };
                for row in 0..ROW_STEP {
                    let before = if link.is_first { _mm512_setzero_ps() } else { chain[row].load_512(half) };
                    let sum = add(row, before);
                    if link.is_last {
                        acc[row].store_512(half, _mm512_add_ps(acc[row].load_512(half), sum));
                    } else {
                        chain[row].store_512(half, sum);
                    }
                }
            }
        }
    }
}

/// Adds to `dots`, `[halves of the tile][rows]`, the products of a unit of weights with [`ROW_STEP`] rows of
/// activations from `row_idx` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_unit(
    unit: &[CodePairs; UNIT_PAIRS],
    x_unit: &[RowPairs; UNIT_PAIRS],
    row_idx: usize,
    [c, d]: &mut [[__m512i; ROW_STEP]; HALVES],
) {
    assert!(row_idx + ROW_STEP <= ROW_TILE);
    let x = x_unit.as_ptr().cast::<[i16; 2]>().wrapping_add(row_idx);
    // Alternate between four rows to hide the latency of sums, and between products of sums and single pairs to keep
    // adders and multipliers busy at the same time.
    //
    // SAFETY: the instructions read the pairs of four rows in the unit, which exist by the assertion above, and the
    // named registers; they write only registers.
    unsafe {
        asm!(
            sum_block!(0, 0, 1), sum_block!(1, 0, 1), sum_block!(2, 0, 1), sum_block!(3, 0, 1),
            one_pair!(0, 6), one_pair!(1, 6), one_pair!(2, 6), one_pair!(3, 6),
            sum_block!(0, 2, 3), sum_block!(1, 2, 3), sum_block!(2, 2, 3), sum_block!(3, 2, 3),
            one_pair!(0, 7), one_pair!(1, 7), one_pair!(2, 7), one_pair!(3, 7),
            sum_block!(0, 4, 5), sum_block!(1, 4, 5), sum_block!(2, 4, 5), sum_block!(3, 4, 5),
            x = in(reg) x,
            a0 = in(zmm_reg) unit[0].load_512(0),
            a1 = in(zmm_reg) unit[1].load_512(0),
            a2 = in(zmm_reg) unit[2].load_512(0),
            a3 = in(zmm_reg) unit[3].load_512(0),
            a4 = in(zmm_reg) unit[4].load_512(0),
            a5 = in(zmm_reg) unit[5].load_512(0),
            a6 = in(zmm_reg) unit[6].load_512(0),
            a7 = in(zmm_reg) unit[7].load_512(0),
            b0 = in(zmm_reg) unit[0].load_512(1),
            b1 = in(zmm_reg) unit[1].load_512(1),
            b2 = in(zmm_reg) unit[2].load_512(1),
            b3 = in(zmm_reg) unit[3].load_512(1),
            b4 = in(zmm_reg) unit[4].load_512(1),
            b5 = in(zmm_reg) unit[5].load_512(1),
            b6 = in(zmm_reg) unit[6].load_512(1),
            b7 = in(zmm_reg) unit[7].load_512(1),
            c0 = inout(zmm_reg) c[0],
            c1 = inout(zmm_reg) c[1],
            c2 = inout(zmm_reg) c[2],
            c3 = inout(zmm_reg) c[3],
            d0 = inout(zmm_reg) d[0],
            d1 = inout(zmm_reg) d[1],
            d2 = inout(zmm_reg) d[2],
            d3 = inout(zmm_reg) d[3],
            left = out(zmm_reg) _,
            right = out(zmm_reg) _,
            upper_left = out(zmm_reg) _,
            upper_right = out(zmm_reg) _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// [`pack_rows`](crate::activations::pack_rows).
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn pack_rows(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], cross: &mut [i32; ROW_TILE]) {
    crate::activations::pack_rows(bits, codes, pairs, cross);
}

/// Extracts the pair `idx` (0 to 3) of the 8 codes of 4 bits in each word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(words: __m512i, idx: usize) -> __m512i {
    let mask = _mm512_set1_epi16(15);
    match idx {
        0 => _mm512_and_si512(words, mask),
        1 => _mm512_and_si512(_mm512_srli_epi16::<4>(words), mask),
        2 => _mm512_and_si512(_mm512_srli_epi16::<8>(words), mask),
        _ => _mm512_srli_epi16::<12>(words),
    }
}

/// Extracts the pair `idx` (0 or 1) of the 4 codes of 8 bits in each word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes(words: __m512i, idx: usize) -> __m512i {
    match idx {
        0 => _mm512_and_si512(words, _mm512_set1_epi16(255)),
        _ => _mm512_srli_epi16::<8>(words),
    }
}
