//! Loads and stores of AVX2 vectors. Each layout of a tile is four vectors, indexed by `octet`.

#![expect(unsafe_code, reason = "loads and stores are by pointers")]

use std::arch::x86_64::*;

use super::LANES;
use crate::activations::{LINE_BYTES, RowPairs};
use crate::tile::{CodePairs, Lanes, TILE};

/// Bytes per vector.
pub(super) const VECTOR_BYTES: usize = 32;

/// Vectors per line.
pub(in crate::isa) const VECTORS: usize = LINE_BYTES / VECTOR_BYTES;

/// Loads one vector of a row of [`TILE`] numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_256(numbers: &[f32; TILE], octet: usize) -> __m256 {
    let lanes = &numbers.as_chunks::<LANES>().0[octet];
    // SAFETY: the load reads exactly this array of 8 `f32`.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::isa) fn load_256(&self, octet: usize) -> __m256 {
        load_256(&self.0, octet)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn store_256(&mut self, octet: usize, values: __m256) {
        let lanes = &mut self.0.as_chunks_mut::<LANES>().0[octet];
        // SAFETY: the store writes exactly this array of 8 `f32`.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), values) }
    }
}

impl CodePairs {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::isa) fn load_256(&self, octet: usize) -> __m256i {
        let pairs = &self.0.as_chunks::<LANES>().0[octet];
        // SAFETY: the load reads exactly this array of 8 pairs of `i16`.
        unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn store_256(&mut self, octet: usize, pairs: __m256i) {
        let out = &mut self.0.as_chunks_mut::<LANES>().0[octet];
        // SAFETY: the store writes exactly this array of 8 pairs of `i16`.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), pairs) }
    }
}

impl RowPairs {
    /// Broadcasts the pair of one row.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::isa) fn splat_256(&self, row: usize) -> __m256i {
        let pair = &self.0[row];
        // SAFETY: the load reads exactly this pair of `i16`.
        _mm256_set1_epi32(unsafe { pair.as_ptr().cast::<i32>().read_unaligned() })
    }
}

/// Loads the words of 16 rows.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn load_line(line: &[u8; LINE_BYTES]) -> [__m256i; VECTORS] {
    const { assert!(LINE_BYTES == VECTORS * VECTOR_BYTES) };
    let start = line.as_ptr();
    // SAFETY: the loads read exactly this array of 64 bytes.
    unsafe { [_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(VECTOR_BYTES).cast())] }
}
