//! Dot products that an instruction multiplies and adds to their sums.

#![expect(unsafe_code, reason = "loads through pointers: bounds checks in the inner loop would be too slow")]

use std::arch::x86_64::*;

use super::intrinsics::{dpbusd, dpwssd};
use crate::activations::{LINE_BYTES, ROW_STEP, ROW_TILE, RowPairs};
use crate::isa::avx2::{Each, VECTORS, load_line, schedule_before_loads, splat_pair};
use crate::isa::x86::prefetch_line;
use crate::tile::CodePairs;

/// [`by_digits`](crate::isa::avx2::dots::by_digits) of AVX2.
///
/// # Safety
/// Same as there, and the processor must support AVX-VNNI.
#[cfg_attr(not(test), target_feature(enable = "avx2,avxvnni"))]
#[cfg_attr(test, target_feature(enable = "avx2"))]
pub(in crate::isa) unsafe fn by_digits<const M: usize>(
    lines: &[[u8; LINE_BYTES]],
    x: [*const u8; M],
    ahead: *const u8,
) -> Each<__m256i, M> {
    let mask = _mm256_set1_epi8(15);
    let mut upper = [[_mm256_setzero_si256(); VECTORS]; M];
    let mut lower = upper;
    for (word, line) in lines.iter().enumerate() {
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
                    upper[row][vector] = dpbusd(upper[row][vector], codes[vector], digits[0]);
                    lower[row][vector] = dpbusd(lower[row][vector], codes[vector], digits[1]);
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
            let shifted = _mm256_slli_epi32::<8>(upper[row][vector]);
            lower[row][vector] = _mm256_add_epi32(lower[row][vector], shifted);
        }
    }
    lower
}

/// [`by_pairs`](crate::isa::avx2::dots::by_pairs) of AVX2.
///
/// # Safety
/// Same as there, and the processor must support AVX-VNNI.
#[cfg_attr(not(test), target_feature(enable = "avx2,avxvnni"))]
#[cfg_attr(test, target_feature(enable = "avx2"))]
pub(in crate::isa) unsafe fn by_pairs<const BITS: usize, const M: usize>(
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
                    dots[row][vector] = dpwssd(dots[row][vector], codes[vector], pair);
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

/// Returns the dot products of two vectors of a panel with [`ROW_STEP`] rows of activations, as those of AVX2.
///
/// # Safety
/// The processor must support AVX-VNNI.
#[cfg_attr(not(test), target_feature(enable = "avx2,avxvnni"))]
#[cfg_attr(test, target_feature(enable = "avx2"))]
pub(in crate::isa) unsafe fn of_panel(
    pairs: &[CodePairs],
    octet: usize,
    x: &[RowPairs],
    row_start: usize,
) -> Each<__m256i, ROW_STEP> {
    assert!(row_start + ROW_STEP <= ROW_TILE);
    let mut dots = [[_mm256_setzero_si256(); VECTORS]; ROW_STEP];
    for (pairs, x) in pairs.iter().zip(x) {
        let weights = [pairs.load_256(octet), pairs.load_256(octet + 1)];
        for (row, dots) in dots.iter_mut().enumerate() {
            let x = x.splat_256(row_start + row);
            for (dot, weights) in dots.iter_mut().zip(weights) {
                *dot = dpwssd(*dot, x, weights);
            }
        }
    }
    dots
}
