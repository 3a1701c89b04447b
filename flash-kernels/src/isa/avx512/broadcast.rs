//! Few rows of activations: activations are broadcast, and each lane of a vector is a row of weights.
//!
//! A vector holds a word of codes of each of 16 rows. Codes are multiplied byte by byte with two signed 8-bit digits of
//! the activations; an instruction multiplies, adds four products in each lane, and takes the activations from memory.
//! Codes are extracted once for all rows of activations, and sums need no rearrangement.

#![expect(unsafe_code, reason = "loads through pointers: bounds checks in the inner loop would be too slow")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::Arc;

use super::HALVES;
use super::prefetch::{self, L1, L1NonTemporal, L2, Policy};
use super::words::{HalfWords, WORD_BYTES};
use crate::activations::{FixedVector, LINE_BYTES};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::isa::x86::HalfFloats;
use crate::prefetch::Prefetch;
use crate::tile::{CodeBits, Lanes};

/// Words of each row multiplied at a time: those of the smallest group.
const STEP_WORDS: usize = 4;

/// Adds to each element of `acc` the dot products of a row of activations with the rows of the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    match (tile.codes.bits, tile.codes.group) {
        (CodeBits::Four, 32) => multiply_steps::<4, 32>(tile, x, acc),
        (CodeBits::Four, 64) => multiply_steps::<4, 64>(tile, x, acc),
        (CodeBits::Four, _) => multiply_steps::<4, 128>(tile, x, acc),
        (CodeBits::Eight, 32) => multiply_steps::<8, 32>(tile, x, acc),
        (CodeBits::Eight, 64) => multiply_steps::<8, 64>(tile, x, acc),
        (CodeBits::Eight, _) => multiply_steps::<8, 128>(tile, x, acc),
    }
}

/// Multiplies up to eight rows of activations at a time, whose sums and operands fill the registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_steps<const BITS: usize, const GROUP: usize>(
    tile: &AffineTile<'_>,
    x: &[Arc<FixedVector>],
    acc: &mut [Lanes],
) {
    let (mut x, mut acc) = (x, acc);
    loop {
        let n_rows = match x {
            [] => return,
            [a, b, c, d, e, f, g, h, ..] => {
                multiply_rows::<BITS, GROUP, 8>(tile, [a, b, c, d, e, f, g, h], acc)
            }
            [a, b, c, d, e, f] => multiply_rows::<BITS, GROUP, 6>(tile, [a, b, c, d, e, f], acc),
            [a, b, c, d] | [a, b, c, d, _, _, _] => multiply_rows::<BITS, GROUP, 4>(tile, [a, b, c, d], acc),
            [a, b, c] | [a, b, c, _, _] => multiply_rows::<BITS, GROUP, 3>(tile, [a, b, c], acc),
            [a, b] => multiply_rows::<BITS, GROUP, 2>(tile, [a, b], acc),
            [a] => multiply_rows::<BITS, GROUP, 1>(tile, [a], acc),
        };
        (x, acc) = (&x[n_rows..], &mut acc[n_rows..]);
    }
}

/// Multiplies `M` rows with the prefetching policy of the tile, and returns `M`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_rows<const BITS: usize, const GROUP: usize, const M: usize>(
    tile: &AffineTile<'_>,
    x: [&Arc<FixedVector>; M],
    acc: &mut [Lanes],
) -> usize {
    let acc = acc.first_chunk_mut().expect("a sum for each row");
    // With more rows multiplying is the limit, not memory.
    let policy = if M <= 2 { tile.prefetch } else { Prefetch::Near };
    match policy {
        Prefetch::Near => multiply_tile::<L1, BITS, GROUP, M>(tile, x, acc),
        Prefetch::NonTemporal => multiply_tile::<L1NonTemporal, BITS, GROUP, M>(tile, x, acc),
        Prefetch::Far => multiply_tile::<L2, BITS, GROUP, M>(tile, x, acc),
    }
    M
}

/// Adds to `acc` the dot products of `M` rows of activations with the rows of the tile, half of the tile at a time.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_tile<A: Policy, const BITS: usize, const GROUP: usize, const M: usize>(
    tile: &AffineTile<'_>,
    x: [&Arc<FixedVector>; M],
    acc: &mut [Lanes; M],
) {
    let group_words = GROUP * BITS / 32;
    let (n_groups, row_bytes) = (tile.n_groups(), tile.codes.rows.row_bytes());
    assert!(tile.codes.group == GROUP && row_bytes == n_groups * group_words * WORD_BYTES);
    let mut planes = [std::ptr::null(); M];
    for row in 0..M {
        assert!(x[row].planes.len() >= row_bytes.div_ceil(LINE_BYTES) * line_planes(BITS));
        assert!(x[row].scales.len().min(x[row].sums.len()) >= n_groups);
        planes[row] = x[row].planes.as_ptr().cast::<u8>();
    }
    for half in 0..HALVES {
        let mut buffer = None;
        let words = HalfWords::new(tile.codes, half);
        let ahead_bytes = words.ahead_bytes::<A>();
        let (mut scales, mut biases) =
            (HalfFloats::new(tile.scales, half), HalfFloats::new(tile.biases, half));
        let mut chains = [[_mm512_setzero_ps(); M]; CHAINS];
        // One group of each chain at a time.
        for start in (0..n_groups).step_by(CHAINS) {
            let groups = start..n_groups.min(start + CHAINS);
            scales.decode_512(groups.clone());
            biases.decode_512(groups.clone());
            for group_idx in groups {
                let group_word = group_idx * group_words;
                let lines = words.lines(group_word..group_word + group_words, &mut buffer);
                let mut dots = Dots::<BITS, M>::zero();
                for (idx, lines) in lines.as_chunks::<STEP_WORDS>().0.iter().enumerate() {
                    let word = group_word + STEP_WORDS * idx;
                    // SAFETY: each row has the planes of these words, by the assertion on their number.
                    unsafe {
                        let x = offset_planes::<BITS, M>(planes, word);
                        dots.add::<A, 0>(&lines[0], x, ahead_bytes);
                        dots.add::<A, 4>(&lines[1], x, ahead_bytes);
                        dots.add::<A, 8>(&lines[2], x, ahead_bytes);
                        dots.add::<A, 12>(&lines[3], x, ahead_bytes);
                    }
                }
                let floats = (scales.load_512(group_idx), biases.load_512(group_idx));
                add(dots.sum(), x, group_idx, floats, &mut chains[group_idx - start]);
            }
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            let mut sum = acc.load_512(half);
            for chain in &chains {
                sum = _mm512_add_ps(sum, chain[row]);
            }
            acc.store_512(half, sum);
        }
    }
}

/// Adds a group to its chain.
#[inline]
#[target_feature(enable = "avx512f")]
fn add<const M: usize>(
    dots: [__m512i; M],
    x: [&Arc<FixedVector>; M],
    group_idx: usize,
    (scales, biases): (__m512, __m512),
    chains: &mut [__m512; M],
) {
    for row in 0..M {
        let (x_scale, x_sum) =
            (_mm512_set1_ps(x[row].scales[group_idx]), _mm512_set1_ps(x[row].sums[group_idx]));
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[row]), x_scale);
        let sum = _mm512_fmadd_ps(scaled, scales, chains[row]);
        chains[row] = _mm512_fmadd_ps(x_sum, biases, sum);
    }
}

/// Planes of activations per line of codes.
const fn line_planes(bits: usize) -> usize {
    16 / bits
}

/// Returns the addresses of the activations of a word in the first plane of its line.
#[inline(always)]
fn offset_planes<const BITS: usize, const M: usize>(planes: [*const u8; M], word: usize) -> [*const u8; M] {
    let line = word * WORD_BYTES / LINE_BYTES * LINE_BYTES;
    let offset = line * line_planes(BITS) + (word * WORD_BYTES - line);
    let mut at = planes;
    for at in &mut at {
        *at = at.wrapping_add(offset);
    }
    at
}

/// Sums of the products of a group, for each of `M` rows of activations and each digit.
///
/// Few sums would each wait for the one before, so there are two sets for codes of 4 bits, one for each half of a byte, if
/// they fit the registers.
struct Dots<const BITS: usize, const M: usize> {
    upper: [[__m512i; M]; 2],
    lower: [[__m512i; M]; 2],
}

impl<const BITS: usize, const M: usize> Dots<BITS, M> {
    /// Set of the codes in the upper halves of bytes.
    const HIGH: usize = if M <= 4 { 1 } else { 0 };

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        let zero = [[_mm512_setzero_si512(); M]; 2];
        Self { upper: zero, lower: zero }
    }

    /// Adds the products of a line of codes, whose activations are at `OFFSET` from `x`, and prefetches what is
    /// `ahead_bytes` beyond the line.
    ///
    /// # Safety
    /// Each pointer in `x` must be valid for reads of a word at `OFFSET` in each plane of its line of activations.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add<A: Policy, const OFFSET: usize>(
        &mut self,
        line: &[u8; LINE_BYTES],
        x: [*const u8; M],
        ahead_bytes: usize,
    ) {
        // SAFETY: the load reads exactly this array of 64 bytes.
        let [low, high] = unsafe {
            prefetch::ahead::<A>(line.as_ptr(), ahead_bytes);
            let codes = _mm512_loadu_si512(line.as_ptr().cast());
            extract::<BITS>(codes)
        };
        for row in 0..M {
            let (upper, lower) = (&mut self.upper, &mut self.lower);
            // SAFETY: guaranteed by the caller: for codes of 4 bits, the planes are the upper digits for the lower and the
            // upper halves of bytes, then the lower digits; for codes of 8 bits the upper digits, then the lower.
            unsafe {
                if BITS == 4 {
                    add_digits::<OFFSET, 0, 2>([&mut upper[0][row], &mut lower[0][row]], low, x[row]);
                    let high_sums = [&mut upper[Self::HIGH][row], &mut lower[Self::HIGH][row]];
                    add_digits::<OFFSET, 1, 3>(high_sums, high, x[row]);
                } else {
                    add_digits::<OFFSET, 0, 1>([&mut upper[0][row], &mut lower[0][row]], low, x[row]);
                }
            }
        }
    }

    /// Returns the dot products.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sum(self) -> [__m512i; M] {
        let mut dots = [_mm512_setzero_si512(); M];
        for (row, dot) in dots.iter_mut().enumerate() {
            let (mut upper, mut lower) = (self.upper[0][row], self.lower[0][row]);
            if BITS == 4 && Self::HIGH == 1 {
                upper = _mm512_add_epi32(upper, self.upper[1][row]);
                lower = _mm512_add_epi32(lower, self.lower[1][row]);
            }
            *dot = _mm512_add_epi32(lower, _mm512_slli_epi32::<8>(upper));
        }
        dots
    }
}

/// Adds the products of `codes` with a word of the upper and one of the lower digits, which are at `OFFSET` in the planes
/// `UPPER` and `LOWER` of the line at `x`.
///
/// In assembly, since the compiler would load the activations of several lines first, and spill them.
///
/// # Safety
/// Both words must be valid for reads.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_digits<const OFFSET: usize, const UPPER: usize, const LOWER: usize>(
    [upper, lower]: [&mut __m512i; 2],
    codes: __m512i,
    x: *const u8,
) {
    // SAFETY: the instructions read words that the caller guarantees to be there, and the named registers; they write
    // only registers.
    unsafe {
        asm!(
            "vpdpbusd {upper}, {codes}, dword ptr [{x} + {upper_at}]{{1to16}}",
            "vpdpbusd {lower}, {codes}, dword ptr [{x} + {lower_at}]{{1to16}}",
            x = in(reg) x,
            upper_at = const OFFSET + LINE_BYTES * UPPER,
            lower_at = const OFFSET + LINE_BYTES * LOWER,
            codes = in(zmm_reg) codes,
            upper = inout(zmm_reg) *upper,
            lower = inout(zmm_reg) *lower,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// Returns the codes in the lower and upper halves of bytes, or codes of 8 bits twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn extract<const BITS: usize>(codes: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8(15);
    match BITS {
        4 => [_mm512_and_si512(codes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask)],
        _ => [codes, codes],
    }
}
