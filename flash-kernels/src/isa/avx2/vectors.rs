//! The layouts of a tile as vectors: each is four vectors, and `octet` is which.

#![expect(unsafe_code, reason = "loads and stores are by pointers")]

use std::arch::x86_64::*;

use super::LANES;
use crate::activations::{LINE_BYTES, Plane, RowPairs};
use crate::tile::{CodePairs, Lanes, TILE};

/// Bytes of a vector.
pub(super) const VECTOR_BYTES: usize = 32;

/// One number for each row of a tile, wherever they lie.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_256(numbers: &[f32; TILE], octet: usize) -> __m256 {
    let lanes = &numbers.as_chunks::<LANES>().0[octet];
    // SAFETY: an array of 8 `f32` is what is read.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn load_256(&self, octet: usize) -> __m256 {
        load_256(&self.0, octet)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn store_256(&mut self, octet: usize, values: __m256) {
        let lanes = &mut self.0.as_chunks_mut::<LANES>().0[octet];
        // SAFETY: an array of 8 `f32` is what is written.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), values) }
    }
}

impl CodePairs {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn load_256(&self, octet: usize) -> __m256i {
        let pairs = &self.0.as_chunks::<LANES>().0[octet];
        // SAFETY: an array of 8 pairs of `i16` is what is read.
        unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn store_256(&mut self, octet: usize, pairs: __m256i) {
        let out = &mut self.0.as_chunks_mut::<LANES>().0[octet];
        // SAFETY: an array of 8 pairs of `i16` is what is written.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), pairs) }
    }
}

impl RowPairs {
    /// The pair of one row, eight times.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn splat_256(&self, row: usize) -> __m256i {
        let pair = &self.0[row];
        // SAFETY: two `i16` are what is read.
        _mm256_set1_epi32(unsafe { pair.as_ptr().cast::<i32>().read_unaligned() })
    }
}

impl Plane {
    /// One half.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn load_256(&self, half: usize) -> __m256i {
        const { assert!(LINE_BYTES == 2 * VECTOR_BYTES) };
        let bytes = &self.0.as_chunks::<VECTOR_BYTES>().0[half];
        // SAFETY: an array of 32 bytes is what is read.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }
}
