//! Transposition of 8 × 8 words.

use std::arch::x86_64::*;

use super::LANES;

/// Permutation that takes the lower halves of both vectors.
pub(super) const LOWER: i32 = 0x20;
/// Permutation that takes the upper halves of both vectors.
pub(super) const UPPER: i32 = 0x31;

/// Transposes 8 rows of 8 words.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose(rows: &[__m256i; LANES]) -> [__m256i; LANES] {
    let first = transpose_halves([rows[0], rows[1], rows[2], rows[3]]);
    let second = transpose_halves([rows[4], rows[5], rows[6], rows[7]]);
    let mut columns = [_mm256_setzero_si256(); LANES];
    for idx in 0..4 {
        columns[idx] = _mm256_permute2x128_si256::<LOWER>(first[idx], second[idx]);
        columns[4 + idx] = _mm256_permute2x128_si256::<UPPER>(first[idx], second[idx]);
    }
    columns
}

/// Transposes the 4 × 4 words in each half of four rows.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_halves(rows: [__m256i; 4]) -> [__m256i; 4] {
    let low = [_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpacklo_epi32(rows[2], rows[3])];
    let high = [_mm256_unpackhi_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[2], rows[3])];
    [
        _mm256_unpacklo_epi64(low[0], low[1]),
        _mm256_unpackhi_epi64(low[0], low[1]),
        _mm256_unpacklo_epi64(high[0], high[1]),
        _mm256_unpackhi_epi64(high[0], high[1]),
    ]
}
