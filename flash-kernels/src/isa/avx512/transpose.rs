//! Transposition of 16 × 16 words.

use std::arch::x86_64::*;

use super::LANES;

/// Shuffle that takes the even quarters of both vectors.
pub(super) const EVEN: i32 = 0b10_00_10_00;
/// Shuffle that takes the odd quarters of both vectors.
pub(super) const ODD: i32 = 0b11_01_11_01;

/// Transposes 16 rows of 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let blocks = transpose_blocks(rows);
    let mut columns = [_mm512_setzero_si512(); LANES];
    for idx in 0..4 {
        for (quarter, column) in columns_of(&blocks, idx).into_iter().enumerate() {
            columns[4 * quarter + idx] = column;
        }
    }
    columns
}

/// First step of [`transpose`]: transposes the 4 × 4 words in each quarter of four rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_blocks(rows: &[__m512i; LANES]) -> [[__m512i; 4]; 4] {
    let mut blocks = [[_mm512_setzero_si512(); 4]; 4];
    for (block, rows) in blocks.iter_mut().zip(rows.as_chunks::<4>().0) {
        let low = [_mm512_unpacklo_epi32(rows[0], rows[1]), _mm512_unpacklo_epi32(rows[2], rows[3])];
        let high = [_mm512_unpackhi_epi32(rows[0], rows[1]), _mm512_unpackhi_epi32(rows[2], rows[3])];
        *block = [
            _mm512_unpacklo_epi64(low[0], low[1]),
            _mm512_unpackhi_epi64(low[0], low[1]),
            _mm512_unpacklo_epi64(high[0], high[1]),
            _mm512_unpackhi_epi64(high[0], high[1]),
        ];
    }
    blocks
}

/// Last step of [`transpose`]: returns the columns `idx`, `4 + idx`, `8 + idx` and `12 + idx`.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns_of(blocks: &[[__m512i; 4]; 4], idx: usize) -> [__m512i; 4] {
    let [a, b, c, d] = [blocks[0][idx], blocks[1][idx], blocks[2][idx], blocks[3][idx]];
    let even = [_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(c, d)];
    let odd = [_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(c, d)];
    [
        _mm512_shuffle_i32x4::<EVEN>(even[0], even[1]),
        _mm512_shuffle_i32x4::<EVEN>(odd[0], odd[1]),
        _mm512_shuffle_i32x4::<ODD>(even[0], even[1]),
        _mm512_shuffle_i32x4::<ODD>(odd[0], odd[1]),
    ]
}
