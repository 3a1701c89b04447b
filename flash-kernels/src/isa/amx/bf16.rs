//! Digits and codes as `bf16`: `TDPBF16PS` adds products of pairs of them to `f32`. Digits of 8 bits (the upper ones
//! times 256) and codes of 4 bits are exact in `bf16`. As long as no sum can reach 2²⁴, every intermediate result is an
//! integer that `f32` holds, so nothing is rounded and the order of additions does not matter. The stored sums are the
//! dot products; with [bytes](super::bytes) they must be combined from twice as many tiles.

#![expect(unsafe_code, reason = "the matrix unit loads and stores through pointers")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::panel::{LINE_BYTES, TileFormat};
use super::unit::{ROW_BYTES, Sums, Tiles};
use crate::activations::{ROW_TILE, RowPairs};
use crate::chains::Link;
use crate::isa::avx512::{HALVES, HalfWords, LANES};
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, TILE, UNIT};

/// Maximum group length: 32 products of codes up to 15 and activations up to
/// [`FIXED_MAX`](crate::activations::FIXED_MAX) are at most 0.94 · 2²⁴.
pub(super) const GROUP_MAX: usize = 32;

/// Numbers per row of a tile.
const ROW_CODES: usize = ROW_BYTES / 2;

/// A vector of `bf16` numbers.
type Words = [u16; ROW_CODES];

/// Table of the codes as `bf16`. Repeated, because the fifth bit of a table index belongs to another code.
const CODES: Words = {
    let mut codes = [0; ROW_CODES];
    let mut at = 0;
    while at < ROW_CODES {
        codes[at] = ((at % 16) as f32).to_bits().wrapping_shr(16) as u16;
        at += 1;
    }
    codes
};

/// Permutation that takes the upper halves of the words of two vectors, in the order in which 4-bit codes are unpacked.
const ORDER: Words = {
    let mut order = [0; ROW_CODES];
    let mut at = 0;
    while at < ROW_CODES {
        let code = at / UNIT * UNIT + CodeBits::Four.order()[at % UNIT];
        order[at] = 2 * code as u16 + 1;
        at += 1;
    }
    order
};

#[derive(Clone)]
pub(super) struct Bf16;

/// [`Kernels::row_pairs`](crate::isa::Kernels::row_pairs): two two-byte digits per code.
pub(super) fn row_pairs(group: usize) -> usize {
    group
}

/// [`Kernels::pack_rows`](crate::isa::Kernels::pack_rows): for each step the upper digits of all rows, then the lower
/// digits.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_rows(codes: &[i16], pairs: &mut [RowPairs]) {
    let group = codes.len() / ROW_TILE;
    let digits: &mut [Words] = bytemuck::cast_slice_mut(pairs);
    for (step_idx, digits) in digits.chunks_exact_mut(2 * ROW_TILE).enumerate() {
        let (upper_rows, lower_rows) = digits.split_at_mut(ROW_TILE);
        let outs = upper_rows.iter_mut().zip(lower_rows);
        for (codes, (upper_row, lower_row)) in codes.chunks_exact(group).zip(outs) {
            let codes = load(&codes.as_chunks::<ROW_CODES>().0[step_idx]);
            let rounded = _mm512_add_epi16(codes, _mm512_set1_epi16(128));
            let upper = _mm512_and_si512(rounded, _mm512_set1_epi16(!255));
            store(upper_row, to_bf16(upper));
            store(lower_row, to_bf16(_mm512_sub_epi16(codes, upper)));
        }
    }
}

/// Converts integers with at most 8 significant bits to `bf16`, in the order of codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn to_bf16(numbers: __m512i) -> __m512i {
    let [first, second] = [_mm512_castsi512_si256(numbers), _mm512_extracti64x4_epi64::<1>(numbers)];
    let first = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(first));
    let second = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(second));
    // Exact: the discarded lower halves are zero.
    _mm512_permutex2var_epi16(_mm512_castps_si512(first), load_words(&ORDER), _mm512_castps_si512(second))
}

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes): each line of the panel has two codes per row.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn unpack_codes(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    panel.pairs.resize(links.len() * rows.group / 2, CodePairs([[0; 2]; TILE]));
    let table = load_words(&CODES);
    for half in 0..HALVES {
        let words = HalfWords::new(rows, half);
        for (block_idx, lines) in panel.pairs.chunks_mut(4 * LANES).enumerate() {
            let words = words.block(links, block_idx);
            for (word, lines) in words.into_iter().zip(lines.as_chunks_mut::<4>().0) {
                let [a, b, c, d] = lines;
                a.store_512(half, _mm512_permutexvar_epi16(word, table));
                b.store_512(half, _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(word), table));
                c.store_512(half, _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(word), table));
                d.store_512(half, _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(word), table));
            }
        }
    }
}

/// Adds a step to the set of sums in the tiles `$first` and `$second`, one for each half of a tile of weights.
/// Consecutive products go to different tiles.
macro_rules! add {
    ($first:literal, $second:literal: $x:ident, $codes:ident) => {
        asm!(
            "tileloadd tmm4, [{x} + {step}]",
            "tileloadd tmm6, [{codes} + {line}]",
            concat!("tdpbf16ps ", $first, ", tmm4, tmm6"),
            "tileloadd tmm7, [{codes} + {line} + 64]",
            concat!("tdpbf16ps ", $second, ", tmm4, tmm7"),
            "tileloadd tmm5, [{lower} + {step}]",
            concat!("tdpbf16ps ", $first, ", tmm5, tmm6"),
            concat!("tdpbf16ps ", $second, ", tmm5, tmm7"),
            x = in(reg) $x,
            lower = in(reg) $x.wrapping_add(ROW_TILE * Self::STEP_BYTES),
            step = in(reg) Self::STEP_BYTES,
            codes = in(reg) $codes,
            line = in(reg) LINE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags),
        )
    };
}

impl TileFormat for Bf16 {
    type Number = f32;
    const CODE_BYTES: usize = 2;
    const STEP_BYTES: usize = ROW_BYTES;
    const BLOCK_HALVES: usize = HALVES;

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
    unsafe fn dots(Sums(dots): &Sums<f32>, half: usize, row: usize) -> __m512 {
        // SAFETY: the load reads exactly this array of 16 `f32`.
        unsafe { _mm512_loadu_ps(dots[half][row].as_ptr()) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(codes: &[i16; ROW_CODES]) -> __m512i {
    // SAFETY: the load reads exactly this array of 64 bytes.
    unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_words(words: &Words) -> __m512i {
    // SAFETY: the load reads exactly this array of 64 bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(row: &mut Words, numbers: __m512i) {
    // SAFETY: the store writes exactly this array of 64 bytes.
    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), numbers) }
}
