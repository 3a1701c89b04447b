//! Digits and codes as bytes: `TDPBSUD` multiplies signed with unsigned bytes. The sums of the upper and of the lower
//! digits are combined after they are stored.

#![expect(unsafe_code, reason = "the matrix unit loads and stores through pointers")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::panel::{LINE_BYTES, TileFormat};
use super::unit::{ROW_BYTES, Sums, Tiles, WORD_BYTES};
use crate::activations::{ROW_TILE, RowPairs, digits_of};
use crate::chains::Link;
use crate::isa::avx512::{HALVES, HalfWords, LANES};
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, TILE};

/// Byte format with steps of `STEP_BYTES`: a group, or a row of a tile.
#[derive(Clone)]
pub(super) struct Bytes<const STEP_BYTES: usize>;

/// [`Kernels::row_pairs`](crate::isa::Kernels::row_pairs): two one-byte digits per code.
pub(super) fn row_pairs(group: usize) -> usize {
    group / 2
}

/// [`Kernels::pack_rows`](crate::isa::Kernels::pack_rows): for each step the upper digits of all rows, then the lower
/// digits, in the order in which words of codes are unpacked: for codes of 4 bits, those in the lower halves of bytes
/// first.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn pack_rows(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs]) {
    let group = codes.len() / ROW_TILE;
    let step = group.min(ROW_BYTES);
    let digits: &mut [u8] = bytemuck::cast_slice_mut(pairs);
    for (step_idx, digits) in digits.chunks_exact_mut(2 * ROW_TILE * step).enumerate() {
        let (upper, lower) = digits.split_at_mut(ROW_TILE * step);
        let rows =
            codes.chunks_exact(group).zip(upper.chunks_exact_mut(step).zip(lower.chunks_exact_mut(step)));
        for (codes, (upper, lower)) in rows {
            let codes = &codes[step_idx * step..][..step];
            match bits {
                CodeBits::Four => {
                    let words = codes.as_chunks::<8>().0.iter();
                    let outs = upper.as_chunks_mut::<8>().0.iter_mut().zip(lower.as_chunks_mut::<8>().0);
                    for (word, (upper, lower)) in words.zip(outs) {
                        for at in 0..8 {
                            let code = word[at % 4 * 2 + at / 4];
                            (upper[at], lower[at]) = digits_of(code);
                        }
                    }
                }
                CodeBits::Eight => {
                    for (code, (upper, lower)) in codes.iter().zip(upper.iter_mut().zip(lower)) {
                        (*upper, *lower) = digits_of(*code);
                    }
                }
            }
        }
    }
}

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes): each line of the panel has four one-byte codes per
/// row.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn unpack_codes(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    panel.pairs.resize(links.len() * rows.group / WORD_BYTES, CodePairs([[0; 2]; TILE]));
    let mask = _mm512_set1_epi8(15);
    for half in 0..HALVES {
        let words = HalfWords::new(rows, half);
        match rows.bits {
            CodeBits::Four => {
                for (block_idx, lines) in panel.pairs.chunks_mut(2 * LANES).enumerate() {
                    let words = words.block(links, block_idx);
                    for (word, [low, high]) in words.into_iter().zip(lines.as_chunks_mut::<2>().0) {
                        low.store_512(half, _mm512_and_si512(word, mask));
                        high.store_512(half, _mm512_and_si512(_mm512_srli_epi16::<4>(word), mask));
                    }
                }
            }
            CodeBits::Eight => {
                for (block_idx, lines) in panel.pairs.chunks_mut(LANES).enumerate() {
                    let words = words.block(links, block_idx);
                    for (word, line) in words.into_iter().zip(lines) {
                        line.store_512(half, word);
                    }
                }
            }
        }
    }
}

/// Adds a step to the set of sums in the tiles `$upper` and `$lower`, of half a tile of weights with the digits of that
/// name.
macro_rules! add {
    ($upper:literal, $lower:literal: $x:ident, $codes:ident) => {
        asm!(
            "tileloadd tmm6, [{codes} + {line}]",
            "tileloadd tmm4, [{x} + {step}]",
            concat!("tdpbsud ", $upper, ", tmm4, tmm6"),
            "tileloadd tmm5, [{lower} + {step}]",
            concat!("tdpbsud ", $lower, ", tmm5, tmm6"),
            x = in(reg) $x,
            lower = in(reg) $x.wrapping_add(ROW_TILE * STEP_BYTES),
            step = in(reg) STEP_BYTES,
            codes = in(reg) $codes,
            line = in(reg) LINE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(readonly, nostack, preserves_flags),
        )
    };
}

impl<const STEP_BYTES: usize> TileFormat for Bytes<STEP_BYTES> {
    type Number = i32;
    const CODE_BYTES: usize = 1;
    const STEP_BYTES: usize = STEP_BYTES;
    const BLOCK_HALVES: usize = 1;

    #[inline]
    unsafe fn add(_: &mut Tiles, set: usize, x: *const u8, codes: *const u8) {
        // SAFETY: the tiles are configured for steps of this length; the caller guarantees the rest.
        unsafe {
            match set {
                0 => add!("tmm0", "tmm1": x, codes),
                _ => add!("tmm2", "tmm3": x, codes),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn dots(Sums([upper, lower]): &Sums<i32>, _half: usize, row: usize) -> __m512 {
        let upper = _mm512_slli_epi32::<8>(load(&upper[row]));
        _mm512_cvtepi32_ps(_mm512_add_epi32(upper, load(&lower[row])))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lanes: &[i32; LANES]) -> __m512i {
    // SAFETY: the load reads exactly this array of 16 `i32`.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}
