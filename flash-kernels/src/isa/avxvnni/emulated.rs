//! The instructions of AVX-VNNI with those of AVX2, for tests.

use std::arch::x86_64::*;

/// Adds to each word the sum of the products of 4 unsigned bytes with 4 signed ones, without saturation.
#[target_feature(enable = "avx2")]
pub(super) fn dpbusd(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    let even = _mm256_madd_epi16(
        _mm256_and_si256(unsigned, _mm256_set1_epi16(255)),
        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed)),
    );
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(unsigned), _mm256_srai_epi16::<8>(signed));
    _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
}

/// Adds to each word the sum of the products of 2 pairs of signed halves.
#[target_feature(enable = "avx2")]
pub(super) fn dpwssd(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(a, b))
}
