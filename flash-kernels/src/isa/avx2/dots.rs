//! Dot products of a group of codes of 16 rows with rows of activations.

#![expect(unsafe_code, reason = "loads through pointers: bounds checks in the inner loop would be too slow")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::vectors::{VECTORS, load_line};
use crate::activations::LINE_BYTES;
use crate::isa::x86::prefetch_line;

/// Words of codes of 4 bits whose products are added in 16 bits: 2 products of each of 2 nibbles in 4 words are at
/// most 16 · 15 · 128 in magnitude.
const WORDS_16_BITS: usize = 4;

/// Integer sums of a group, or chains, of 16 rows of weights and each of `M` rows of activations.
pub(in crate::isa) type Each<T, const M: usize> = [[T; VECTORS]; M];

/// Returns the dot products of a group of codes of 4 bits with the digits of activations.
///
/// # Safety
/// Each pointer in `x` must be valid for reads of 16 bytes a line.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn by_digits<const M: usize>(
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

/// Returns the dot products of a group of codes with pairs of activations.
///
/// # Safety
/// Each pointer in `x` must be valid for reads of `64 / BITS` bytes a line.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn by_pairs<const BITS: usize, const M: usize>(
    lines: &[[u8; LINE_BYTES]],
    x: [*const u8; M],
    ahead: *const u8,
) -> Each<__m256i, M> {
    let (n_pairs, mask) = (16 / BITS, _mm256_set1_epi16((1 << BITS) - 1));
    let mut dots = [[_mm256_setzero_si256(); VECTORS]; M];
    for (word, line) in lines.iter().enumerate() {
        prefetch_line(ahead.wrapping_add(word * LINE_BYTES));
        let mut words = load_line(line);
        for pair in 0..n_pairs {
            let mut codes = words;
            for vector in 0..VECTORS {
                codes[vector] = _mm256_and_si256(words[vector], mask);
                words[vector] = match BITS {
                    4 => _mm256_srli_epi16::<4>(words[vector]),
                    _ => _mm256_srli_epi16::<8>(words[vector]),
                };
            }
            for row in 0..M {
                let address = x[row].wrapping_add(4 * (n_pairs * word + pair)).cast::<i32>();
                // SAFETY: guaranteed by the caller.
                let pair = _mm256_set1_epi32(unsafe { address.read_unaligned() });
                for vector in 0..VECTORS {
                    let products = _mm256_madd_epi16(codes[vector], pair);
                    dots[row][vector] = _mm256_add_epi32(dots[row][vector], products);
                }
            }
        }
        for sums in &mut dots {
            for sum in sums {
                *sum = schedule_before_loads(*sum);
            }
        }
    }
    dots
}

/// Returns `sums` through an empty `asm!` block, which keeps the compiler from moving later loads before their
/// computation. Otherwise it loads as much as it can first, and spills for want of registers.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn schedule_before_loads(mut sums: __m256i) -> __m256i {
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
pub(in crate::isa) unsafe fn splat_pair(words: *const u8) -> [__m256i; 2] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let words = words.cast::<i32>();
        [_mm256_set1_epi32(words.read_unaligned()), _mm256_set1_epi32(words.add(1).read_unaligned())]
    }
}
