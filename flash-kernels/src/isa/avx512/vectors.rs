//! Loads and stores of AVX-512 vectors. Each layout of a tile is two vectors, indexed by `half`.

#![expect(unsafe_code, reason = "loads and stores are by pointers")]

use std::arch::x86_64::*;

use super::LANES;
use crate::activations::Plane;
use crate::tile::{CodePairs, IntLanes, Lanes, TILE};

/// Loads one vector of a row of [`TILE`] numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_512(numbers: &[f32; TILE], half: usize) -> __m512 {
    let lanes = &numbers.as_chunks::<LANES>().0[half];
    // SAFETY: the load reads exactly this array of 16 `f32`.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn load_512(&self, half: usize) -> __m512 {
        load_512(&self.0, half)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn store_512(&mut self, half: usize, values: __m512) {
        let lanes = &mut self.0.as_chunks_mut::<LANES>().0[half];
        // SAFETY: the store writes exactly this array of 16 `f32`.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), values) }
    }
}

impl IntLanes {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn load_512(&self, half: usize) -> __m512i {
        let lanes = &self.0.as_chunks::<LANES>().0[half];
        // SAFETY: the load reads exactly this array of 16 `i32`.
        unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn store_512(&mut self, half: usize, lanes: __m512i) {
        let out = &mut self.0.as_chunks_mut::<LANES>().0[half];
        // SAFETY: the store writes exactly this array of 16 `i32`.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), lanes) }
    }
}

impl CodePairs {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn load_512(&self, half: usize) -> __m512i {
        let pairs = &self.0.as_chunks::<LANES>().0[half];
        // SAFETY: the load reads exactly this array of 16 pairs of `i16`.
        unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn store_512(&mut self, half: usize, pairs: __m512i) {
        let out = &mut self.0.as_chunks_mut::<LANES>().0[half];
        // SAFETY: the store writes exactly this array of 16 pairs of `i16`.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs) }
    }
}

impl Plane {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn load_512(&self) -> __m512i {
        // SAFETY: the load reads exactly this array of 64 bytes.
        unsafe { _mm512_loadu_si512(self.0.as_ptr().cast()) }
    }
}
