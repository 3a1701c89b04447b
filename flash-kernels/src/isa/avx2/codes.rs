//! Few rows of activations: dot products straight from the stored codes.
//!
//! A vector holds a word of codes of each of 8 rows, so sums need no rearrangement: activations are broadcast, and each
//! lane is a row of weights. Codes are multiplied in one of two ways, with the same exact sums:
//! - as 16-bit numbers, in pairs, with one sum per row of activations;
//! - codes of 4 bits also byte by byte, with two signed 8-bit digits of the activations. That takes half as many
//!   instructions to extract the codes, but two sums.

#![expect(unsafe_code, reason = "loads through pointers: bounds checks in the inner loop would be too slow")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::Arc;

use super::scales::HalfFloats;
use super::vectors::{VECTORS, load_line};
use super::words::{HALF_ROWS, HALVES, HalfWords};
use crate::activations::{FixedVector, LINE_BYTES, Plane, digits_of, zero_planes};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::isa::x86::prefetch_line;
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

/// Multiplies four rows of activations at a time, whose sums and operands fill the registers, then two and one.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_steps<const BITS: usize, const GROUP: usize>(
    tile: &AffineTile<'_>,
    x: &[Arc<FixedVector>],
    acc: &mut [Lanes],
) {
    let ((fours, x), (acc_fours, acc)) = (x.as_chunks(), acc.as_chunks_mut());
    for ([a, b, c, d], acc) in fours.iter().zip(acc_fours) {
        multiply_tile::<BITS, GROUP, 4>(tile, [a, b, c, d], acc);
    }
    let ((pairs, x), (acc_pairs, acc)) = (x.as_chunks(), acc.as_chunks_mut());
    for ([a, b], acc) in pairs.iter().zip(acc_pairs) {
        multiply_tile::<BITS, GROUP, 2>(tile, [a, b], acc);
    }
    for (x, acc) in x.iter().zip(acc) {
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
    // Two sums for each of four rows would not fit the registers.
    let by_digits = BITS == 4 && M < 4;
    let mut x_bytes = [std::ptr::null(); M];
    for row in 0..M {
        let (digits, words) = x[row].planes.split_at(digit_planes(BITS, x[row].planes.len()));
        let planes = if by_digits { digits } else { words };
        assert!(size_of_val(planes) >= n_groups * group_words * word_x_bytes);
        assert!(x[row].scales.len().min(x[row].sums.len()) >= n_groups);
        x_bytes[row] = planes.as_ptr().cast::<u8>();
    }
    let strip_bytes = HALF_ROWS * row_bytes;
    let ahead_bytes = if tile.codes.layout == Layout::Rows { strip_bytes } else { AHEAD_BYTES };

    let mut buffer = None;
    for half in 0..HALVES {
        let words = HalfWords::new(tile.codes, half);
        let (mut scales, mut biases) =
            (HalfFloats::new(tile.scales, half), HalfFloats::new(tile.biases, half));
        let ahead = tile.codes.rows.bytes().as_ptr().wrapping_add(half * strip_bytes + ahead_bytes);
        let mut chains = [[[_mm256_setzero_ps(); VECTORS]; M]; CHAINS];
        // One group of each chain at a time.
        for start in (0..n_groups).step_by(CHAINS) {
            let groups = start..n_groups.min(start + CHAINS);
            scales.decode(groups.clone());
            biases.decode(groups.clone());
            let end_word = groups.end * group_words;
            for word in (groups.start * group_words..end_word).step_by(step_words) {
                let lines = words.lines(word..end_word.min(word + step_words), &mut buffer);
                for (idx, lines) in lines.chunks_exact(group_words).enumerate() {
                    let group_word = word + idx * group_words;
                    let mut planes = [std::ptr::null(); M];
                    for row in 0..M {
                        planes[row] = x_bytes[row].wrapping_add(group_word * word_x_bytes);
                    }
                    let ahead = ahead.wrapping_add(group_word * LINE_BYTES);
                    // SAFETY: the activations of these words are in the planes, by the assertion on their number.
                    let dots = unsafe {
                        if by_digits {
                            dots_by_digits(lines, planes, ahead)
                        } else {
                            dots_by_pairs::<BITS, M>(lines, planes, ahead)
                        }
                    };
                    let group_idx = group_word / group_words;
                    let floats = (scales.load(group_idx), biases.load(group_idx));
                    add(dots, x, group_idx, floats, &mut chains[group_idx - start]);
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
    (scales, biases): ([__m256; VECTORS], [__m256; VECTORS]),
    chains: &mut Each<__m256, M>,
) {
    for row in 0..M {
        let (x_scale, x_sum) =
            (_mm256_set1_ps(x[row].scales[group_idx]), _mm256_set1_ps(x[row].sums[group_idx]));
        for vector in 0..VECTORS {
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[row][vector]), x_scale);
            let sum = _mm256_fmadd_ps(scaled, scales[vector], chains[row][vector]);
            chains[row][vector] = _mm256_fmadd_ps(x_sum, biases[vector], sum);
        }
    }
}

/// Returns the dot products of a group of codes of 4 bits with the digits of activations.
///
/// # Safety
/// Each pointer in `x` must be valid for reads of 16 bytes a line.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dots_by_digits<const M: usize>(
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
unsafe fn dots_by_pairs<const BITS: usize, const M: usize>(
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

/// Returns how many of `n_planes` planes hold digits.
const fn digit_planes(bits: usize, n_planes: usize) -> usize {
    if bits == 4 { n_planes / 2 } else { 0 }
}

/// Arranges whole lines of codes as [`multiply`] broadcasts them, word by word of the weights: for codes of 4 bits the
/// upper digits of the activations of the lower nibbles, their lower digits, and the same for the upper nibbles; then,
/// for all codes, the pairs of activations that are multiplied with what each shift leaves in the halves of a word.
#[target_feature(enable = "avx2")]
pub(super) fn arrange(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    let mut pairs = zero_planes(codes);
    let pairs_bytes = bytemuck::cast_slice_mut::<Plane, u8>(&mut pairs);
    let (word_codes, n_pairs) = (bits.word_codes(), bits.word_codes() / 2);
    for (bytes, codes) in pairs_bytes.chunks_exact_mut(2 * word_codes).zip(codes.chunks_exact(word_codes)) {
        for (idx, pair) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *pair = bytemuck::cast([codes[idx], codes[idx + n_pairs]]);
        }
    }
    if bits == CodeBits::Eight {
        return pairs;
    }
    let mut planes = zero_planes(codes);
    let digits = bytemuck::cast_slice_mut::<Plane, u8>(&mut planes);
    for (bytes, codes) in digits.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<8>().0) {
        for (idx, code) in codes.iter().enumerate() {
            let ((upper, lower), at) = (digits_of(*code), 8 * (idx % 2) + idx / 2);
            (bytes[at], bytes[4 + at]) = (upper, lower);
        }
    }
    planes.append(&mut pairs);
    planes
}
