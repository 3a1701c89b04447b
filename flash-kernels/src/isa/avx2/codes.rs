//! Few rows of activations: dot products straight from the stored codes.
//!
//! A vector holds a word of codes of each of 8 rows, so sums need no rearrangement: activations are broadcast, and each
//! lane is a row of weights. Codes of 4 bits are multiplied byte by byte with two signed 8-bit digits of the
//! activations. Such products fit 16 bits even after some are added, so most additions are of 16 lanes at a time.

#![expect(unsafe_code, reason = "loads through pointers: bounds checks in the inner loop would be too slow")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::Arc;

use super::floats::decode_octets;
use super::vectors::{VECTORS, load_line};
use super::words::{HALF_ROWS, HALVES, HalfWords, WordBuffer};
use crate::activations::{FixedVector, LINE_BYTES, Plane, digits_of};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::isa::x86::{prefetch_line, prefetch_rows};
use crate::tile::{CodeBits, Lanes, Layout};

/// Words of codes of 4 bits whose products are added in 16 bits: 2 products of each of 2 nibbles in 4 words are at
/// most 16 · 15 · 128 in magnitude.
const WORDS_16_BITS: usize = 4;

/// Distance at which strips are prefetched. `docs/performance-log.md` has the measurements.
const AHEAD_BYTES: usize = 4 << 10;

/// Integer sums of a group, or chains, of 16 rows of weights and each of `M` rows of activations.
type Each<T, const M: usize> = [[T; VECTORS]; M];

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_steps<const BITS: usize, const GROUP: usize>(
    tile: &AffineTile<'_>,
    x: &[Arc<FixedVector>],
    acc: &mut [Lanes],
) {
    let ((pairs, last), (acc_pairs, acc_last)) = (x.as_chunks(), acc.as_chunks_mut());
    for ([a, b], acc) in pairs.iter().zip(acc_pairs) {
        multiply_tile::<BITS, GROUP, 2>(tile, [a, b], acc);
    }
    for (x, acc) in last.iter().zip(acc_last) {
        multiply_tile::<BITS, GROUP, 1>(tile, [x], std::array::from_mut(acc));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_tile<const BITS: usize, const GROUP: usize, const M: usize>(
    tile: &AffineTile<'_>,
    x: [&FixedVector; M],
    acc: &mut [Lanes; M],
) {
    let group_words = GROUP * BITS / 32;
    let step_words = group_words.max(8);
    let (n_groups, row_bytes) = (tile.n_groups(), tile.codes.rows.row_bytes());
    assert!(tile.codes.group == GROUP && row_bytes == n_groups * GROUP * BITS / 8);
    let word_x_bytes = 64 / BITS;
    for x in x {
        assert!(x.planes.len() * LINE_BYTES >= n_groups * group_words * word_x_bytes);
        assert!(x.scales.len().min(x.sums.len()) >= n_groups);
    }
    let strip_bytes = HALF_ROWS * row_bytes;
    let ahead_bytes = if tile.codes.layout == Layout::Rows { strip_bytes } else { AHEAD_BYTES };

    let mut buffer = WordBuffer::ZERO;
    let [mut scales, mut biases] = [[Lanes::ZERO; CHAINS]; 2];
    for half in 0..HALVES {
        let words = HalfWords::new(tile.codes, half);
        let ahead = tile.codes.rows.bytes().as_ptr().wrapping_add(half * strip_bytes + ahead_bytes);
        let mut chains = [[[_mm256_setzero_ps(); VECTORS]; M]; CHAINS];
        // One group of each chain at a time.
        for start in (0..n_groups).step_by(CHAINS) {
            let groups = start..n_groups.min(start + CHAINS);
            let next_rows = (half + 1) * HALF_ROWS..(half + 2) * HALF_ROWS;
            for (rows, floats) in [(tile.scales, &mut scales), (tile.biases, &mut biases)] {
                prefetch_rows(rows, next_rows.clone(), groups.clone());
                let octets = VECTORS * half..VECTORS * (half + 1);
                decode_octets(rows, octets, groups.clone(), &mut floats[..groups.len()]);
            }
            let end_word = groups.end * group_words;
            for word in (groups.start * group_words..end_word).step_by(step_words) {
                let lines = words.lines(word..end_word.min(word + step_words), &mut buffer);
                for (idx, lines) in lines.chunks_exact(group_words).enumerate() {
                    let group_word = word + idx * group_words;
                    let mut planes = [std::ptr::null(); M];
                    for (planes, x) in planes.iter_mut().zip(x) {
                        *planes = x.planes.as_ptr().cast::<u8>().wrapping_add(group_word * word_x_bytes);
                    }
                    let ahead = ahead.wrapping_add(group_word * LINE_BYTES);
                    // SAFETY: the activations of these words are in the planes, by the assertion on their number.
                    let dots = unsafe {
                        match BITS {
                            4 => dots_4_bits(lines, planes, ahead),
                            _ => dots_8_bits(lines, planes, ahead),
                        }
                    };
                    let chain = group_word / group_words - start;
                    let terms = (&scales[chain], &biases[chain]);
                    add(dots, x, start + chain, terms, half, &mut chains[chain]);
                }
            }
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            for vector in 0..VECTORS {
                let mut sum = acc.load_256(VECTORS * half + vector);
                for chain in &chains {
                    sum = _mm256_add_ps(sum, chain[row][vector]);
                }
                acc.store_256(VECTORS * half + vector, sum);
            }
        }
    }
}

/// Adds a group to its chain.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add<const M: usize>(
    dots: Each<__m256i, M>,
    x: [&FixedVector; M],
    group_idx: usize,
    (scales, biases): (&Lanes, &Lanes),
    half: usize,
    chains: &mut Each<__m256, M>,
) {
    for row in 0..M {
        let (x_scale, x_sum) =
            (_mm256_set1_ps(x[row].scales[group_idx]), _mm256_set1_ps(x[row].sums[group_idx]));
        for vector in 0..VECTORS {
            let octet = VECTORS * half + vector;
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[row][vector]), x_scale);
            let sum = _mm256_fmadd_ps(scaled, scales.load_256(octet), chains[row][vector]);
            chains[row][vector] = _mm256_fmadd_ps(x_sum, biases.load_256(octet), sum);
        }
    }
}

/// Returns the dot products of a group of codes of 4 bits.
///
/// # Safety
/// Each pointer in `x` must be valid for reads of 16 bytes a line.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dots_4_bits<const M: usize>(
    lines: &[[u8; LINE_BYTES]],
    x: [*const u8; M],
    ahead: *const u8,
) -> Each<__m256i, M> {
    let mask = _mm256_set1_epi8(15);
    let mut dots = [[_mm256_setzero_si256(); VECTORS]; M];
    for (idx, lines) in lines.as_chunks::<WORDS_16_BITS>().0.iter().enumerate() {
        let mut upper = [[_mm256_setzero_si256(); VECTORS]; M];
        let mut lower = upper;
        for (word, line) in lines.iter().enumerate() {
            let word = WORDS_16_BITS * idx + word;
            prefetch_line(ahead.wrapping_add(word * LINE_BYTES));
            let words = load_line(line);
            for nibble in 0..2 {
                let mut codes = words;
                for codes in &mut codes {
                    let shifted = if nibble == 0 { *codes } else { _mm256_srli_epi16::<4>(*codes) };
                    *codes = _mm256_and_si256(shifted, mask);
                }
                for row in 0..M {
                    // SAFETY: guaranteed by the caller.
                    let digits = unsafe { splat_pair(x[row].wrapping_add(16 * word + 8 * nibble)) };
                    for vector in 0..VECTORS {
                        let products = _mm256_maddubs_epi16(codes[vector], digits[0]);
                        upper[row][vector] = _mm256_add_epi16(upper[row][vector], products);
                        let products = _mm256_maddubs_epi16(codes[vector], digits[1]);
                        lower[row][vector] = _mm256_add_epi16(lower[row][vector], products);
                    }
                }
            }
            for row in 0..M {
                for vector in 0..VECTORS {
                    upper[row][vector] = schedule_before_loads(upper[row][vector]);
                    lower[row][vector] = schedule_before_loads(lower[row][vector]);
                }
            }
        }
        for row in 0..M {
            for vector in 0..VECTORS {
                let upper = _mm256_madd_epi16(upper[row][vector], _mm256_set1_epi16(256));
                let lower = _mm256_madd_epi16(lower[row][vector], _mm256_set1_epi16(1));
                let sum = _mm256_add_epi32(upper, lower);
                dots[row][vector] = _mm256_add_epi32(dots[row][vector], sum);
            }
        }
    }
    dots
}

/// Returns the dot products of a group of codes of 8 bits.
///
/// # Safety
/// Each pointer in `x` must be valid for reads of 8 bytes a line.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dots_8_bits<const M: usize>(
    lines: &[[u8; LINE_BYTES]],
    x: [*const u8; M],
    ahead: *const u8,
) -> Each<__m256i, M> {
    let mut dots = [[_mm256_setzero_si256(); VECTORS]; M];
    for (word, line) in lines.iter().enumerate() {
        prefetch_line(ahead.wrapping_add(word * LINE_BYTES));
        let words = load_line(line);
        for row in 0..M {
            // SAFETY: guaranteed by the caller.
            let pairs = unsafe { splat_pair(x[row].wrapping_add(8 * word)) };
            for vector in 0..VECTORS {
                let even = _mm256_and_si256(words[vector], _mm256_set1_epi16(255));
                let odd = _mm256_srli_epi16::<8>(words[vector]);
                let products =
                    _mm256_add_epi32(_mm256_madd_epi16(even, pairs[0]), _mm256_madd_epi16(odd, pairs[1]));
                dots[row][vector] = _mm256_add_epi32(dots[row][vector], products);
            }
        }
        for row in 0..M {
            for vector in 0..VECTORS {
                dots[row][vector] = schedule_before_loads(dots[row][vector]);
            }
        }
    }
    dots
}

/// Returns `sums` through an empty `asm!` block, which keeps the compiler from moving later loads before their
/// computation. Otherwise it loads as much as it can first, and spills for want of registers.
#[inline]
#[target_feature(enable = "avx2")]
fn schedule_before_loads(mut sums: __m256i) -> __m256i {
    // SAFETY: the block contains only a comment.
    unsafe { asm!("/* {} */", inout(ymm_reg) sums, options(nostack, preserves_flags)) };
    sums
}

/// Broadcasts two consecutive words of activations.
///
/// # Safety
/// Their 8 bytes must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn splat_pair(words: *const u8) -> [__m256i; 2] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let words = words.cast::<i32>();
        [_mm256_set1_epi32(words.read_unaligned()), _mm256_set1_epi32(words.add(1).read_unaligned())]
    }
}

/// Arranges whole lines of codes as [`multiply`] broadcasts them. For each word of codes of 4 bits: the upper digits
/// of the activations of its lower nibbles, their lower digits, and the same for the upper nibbles. For each word of
/// codes of 8 bits: the activations of even bytes, then of odd ones.
#[target_feature(enable = "avx2")]
pub(super) fn arrange(bits: CodeBits, codes: &[i16], planes: &mut [Plane]) {
    let bytes = bytemuck::cast_slice_mut::<Plane, u8>(planes);
    match bits {
        CodeBits::Four => {
            for (bytes, codes) in bytes.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<8>().0) {
                for (idx, code) in codes.iter().enumerate() {
                    let ((upper, lower), at) = (digits_of(*code), 8 * (idx % 2) + idx / 2);
                    (bytes[at], bytes[4 + at]) = (upper, lower);
                }
            }
        }
        CodeBits::Eight => {
            for (bytes, [a, b, c, d]) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(codes.as_chunks().0) {
                *bytes = bytemuck::cast([*a, *c, *b, *d]);
            }
        }
    }
}
