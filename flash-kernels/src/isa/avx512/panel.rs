//! Many rows of activations: a panel of codes is unpacked once and multiplied with all of them.

#![expect(unsafe_code, reason = "loads through pointers: the inner loop leaves no room for checks")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::transpose;
use super::{HALVES, LANES};
use crate::activations::{FixedRows, ROW_STEP, ROW_TILE, RowPairs, SUM_BLOCKS};
use crate::chains::Link;
use crate::isa::Sums;
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, GroupLanes, IntLanes, Lanes, TILE, UNIT};

/// Bytes of a quarter of a vector: the smallest group.
const QUARTER_BYTES: usize = 16;

/// Pairs of codes in a unit.
const UNIT_PAIRS: usize = UNIT / 2;

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes).
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn unpack(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    let group = rows.group;
    panel.pairs.resize(links.len() * group / 2, CodePairs([[0; 2]; TILE]));
    panel.cross.resize(links.len(), IntLanes([0; TILE]));
    let word_pairs = rows.bits.word_codes() / 2;
    let group_bytes = rows.bits.bytes(group);
    let row_bytes = rows.rows.row_bytes();
    assert!(links.iter().all(|link| (link.group_idx + 1) * group_bytes <= row_bytes));
    for half in 0..HALVES {
        let start = rows.rows.bytes()[half * LANES * row_bytes..].as_ptr();
        let blocks = panel.pairs.chunks_mut(LANES * word_pairs).enumerate();
        for (block_idx, pairs) in blocks {
            // Where in a row each quarter of the block lies; behind the last group, that again.
            let quarters: [usize; 4] = std::array::from_fn(|quarter| {
                let byte = (4 * block_idx + quarter) * QUARTER_BYTES;
                let link = links[(byte / group_bytes).min(links.len() - 1)];
                link.group_idx * group_bytes + byte % group_bytes
            });
            let mut lines = [_mm512_setzero_si512(); LANES];
            for (lane, line) in lines.iter_mut().enumerate() {
                let start = start.wrapping_add(lane * row_bytes);
                // SAFETY: each row has these groups, by the assertion.
                *line = unsafe {
                    load_quarters(quarters.map(|quarter| start.wrapping_add(quarter)), group_bytes)
                };
            }
            let words = transpose(&lines);
            for (pairs, word) in pairs.chunks_exact_mut(word_pairs).zip(words) {
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

/// Loads a vector from where its quarters lie; those of one group follow each other.
///
/// # Safety
/// The bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_quarters([a, b, c, d]: [*const u8; 4], group_bytes: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        match group_bytes {
            16 => {
                let quarters = [a, b, c, d].map(|quarter| _mm_loadu_si128(quarter.cast()));
                let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarters[0]), quarters[1]);
                let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarters[2]), quarters[3]);
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            }
            32 => {
                let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
                _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(c.cast()))
            }
            _ => _mm512_loadu_si512(a.cast()),
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

/// Rows of activations that lie side by side.
#[derive(Clone, Copy)]
struct RowTile<'a> {
    x: &'a FixedRows,
    tile_idx: usize,
}

/// Multiplies a block of sums: two pairs of activations of the row `$row` among four with the weights `$even` and
/// `$odd`.
macro_rules! sum_block {
    ($row:literal, $even:literal, $odd:literal) => {
        concat!(
            "vpbroadcastd {left}, dword ptr [{x} + {offset} + 64 * ",
            $even,
            " + 4 * ",
            $row,
            "]\n",
            "vpbroadcastd {right}, dword ptr [{x} + {offset} + 64 * ",
            $odd,
            " + 4 * ",
            $row,
            "]\n",
            "vpaddw {left}, {left}, {w",
            $odd,
            "}\n",
            "vpaddw {right}, {right}, {w",
            $even,
            "}\n",
            "vpdpwssd {d",
            $row,
            "}, {left}, {right}",
        )
    };
}

/// Multiplies one pair of activations of the row `$row` among four with the weights `$pair`.
macro_rules! one_pair {
    ($row:literal, $pair:literal) => {
        concat!(
            "vpdpwssd {d",
            $row,
            "}, {w",
            $pair,
            "}, dword ptr [{x} + {offset} + 64 * ",
            $pair,
            " + 4 * ",
            $row,
            "]{{1to16}}",
        )
    };
}

/// For the `M` rows of a tile from `row_start` on.
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
    let (Ok(chain), Ok(acc)) = sums else { unreachable!("sums for each row") };
    for half in 0..HALVES {
        for (idx, link_idx) in links.clone().enumerate() {
            let at = tile.x.tile_idx(link_idx, tile.tile_idx);
            let Link { group_idx, is_first, is_last } = tile.x.links[link_idx];
            let x_pairs = tile.x.tile_pairs(at);
            let terms = &tile.x.terms[at][row_start..][..M];
            let x_cross = &tile.x.cross[at][row_start..][..M];
            let pairs = &panel.pairs[idx * GROUP / 2..][..GROUP / 2];
            let cross = panel.cross[idx].load_512(half);
            let mut dots = [cross; M];
            for (dot, x_cross) in dots.iter_mut().zip(x_cross) {
                *dot = _mm512_add_epi32(cross, _mm512_set1_epi32(*x_cross));
            }
            let units = pairs.as_chunks::<UNIT_PAIRS>().0.iter().zip(x_pairs.as_chunks::<UNIT_PAIRS>().0);
            for (unit, x_unit) in units {
                let mut weights = [cross; UNIT_PAIRS];
                for (weights, pairs) in weights.iter_mut().zip(unit) {
                    *weights = pairs.load_512(half);
                }
                let x = x_unit.as_ptr().cast::<[i16; 2]>().wrapping_add(row_start);
                unroll!(ROW in [0 4 8 12] {
                    if ROW < M {
                        // Four rows take turns, for a sum has to wait for the one before; and blocks of sums with
                        // single pairs, for adders and multipliers to be busy at the same time.
                        //
                        // SAFETY: the instructions read the pairs of four rows in the unit, which are there by the
                        // assertion above, and the registers named; they write registers.
                        unsafe {
                            asm!(
                                sum_block!(0, 0, 1), sum_block!(1, 0, 1), sum_block!(2, 0, 1), sum_block!(3, 0, 1),
                                one_pair!(0, 6), one_pair!(1, 6), one_pair!(2, 6), one_pair!(3, 6),
                                sum_block!(0, 2, 3), sum_block!(1, 2, 3), sum_block!(2, 2, 3), sum_block!(3, 2, 3),
                                one_pair!(0, 7), one_pair!(1, 7), one_pair!(2, 7), one_pair!(3, 7),
                                sum_block!(0, 4, 5), sum_block!(1, 4, 5), sum_block!(2, 4, 5), sum_block!(3, 4, 5),
                                x = in(reg) x,
                                offset = const 4 * ROW,
                                w0 = in(zmm_reg) weights[0],
                                w1 = in(zmm_reg) weights[1],
                                w2 = in(zmm_reg) weights[2],
                                w3 = in(zmm_reg) weights[3],
                                w4 = in(zmm_reg) weights[4],
                                w5 = in(zmm_reg) weights[5],
                                w6 = in(zmm_reg) weights[6],
                                w7 = in(zmm_reg) weights[7],
                                d0 = inout(zmm_reg) dots[ROW],
                                d1 = inout(zmm_reg) dots[ROW + 1],
                                d2 = inout(zmm_reg) dots[ROW + 2],
                                d3 = inout(zmm_reg) dots[ROW + 3],
                                left = out(zmm_reg) _,
                                right = out(zmm_reg) _,
                                options(pure, readonly, nostack, preserves_flags),
                            );
                        }
                    }
                });
            }
            let scale = scales.scales[group_idx].load_512(half);
            let bias = scales.biases[group_idx].load_512(half);
            let add = |row: usize, chain: __m512| {
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[row]), _mm512_set1_ps(terms[row].scale));
                _mm512_fmadd_ps(_mm512_set1_ps(terms[row].sum), bias, _mm512_fmadd_ps(scaled, scale, chain))
            };
            let zero = _mm512_setzero_ps();
            // A loop for each case, so that none has branches.
            match (is_first, is_last) {
                (true, true) => {
                    for (row, acc) in acc.iter_mut().enumerate() {
                        acc.store_512(half, _mm512_add_ps(acc.load_512(half), add(row, zero)));
                    }
                }
                (true, false) => {
                    for (row, chain) in chain.iter_mut().enumerate() {
                        chain.store_512(half, add(row, zero));
                    }
                }
                (false, false) => {
                    for (row, chain) in chain.iter_mut().enumerate() {
                        chain.store_512(half, add(row, chain.load_512(half)));
                    }
                }
                (false, true) => {
                    for (row, (chain, acc)) in chain.iter().zip(acc.iter_mut()).enumerate() {
                        let chain = add(row, chain.load_512(half));
                        acc.store_512(half, _mm512_add_ps(acc.load_512(half), chain));
                    }
                }
            }
        }
    }
}

/// [`pack_rows`](crate::activations::pack_rows).
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn pack_rows(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], cross: &mut [i32; ROW_TILE]) {
    crate::activations::pack_rows(bits, codes, pairs, cross);
}

/// The pair `idx` (0 to 3) of the 8 codes of 4 bits in each word.
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

/// The pair `idx` (0 or 1) of the 4 codes of 8 bits in each word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes(words: __m512i, idx: usize) -> __m512i {
    match idx {
        0 => _mm512_and_si512(words, _mm512_set1_epi16(255)),
        _ => _mm512_srli_epi16::<8>(words),
    }
}
