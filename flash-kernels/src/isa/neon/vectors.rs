//! Loads, stores and shuffles of NEON vectors. Each layout of a tile is eight vectors, indexed by `quad`.

#![expect(unsafe_code, reason = "loads and stores are by pointers")]

use super::LANES;
use super::intrinsics::*;
use crate::tile::{CodePairs, Lanes, TILE};

/// Bytes per vector.
pub(super) const VECTOR_BYTES: usize = 16;

/// Loads one vector of a row of [`TILE`] numbers.
#[inline]
pub(super) fn load_128(numbers: &[f32; TILE], quad: usize) -> float32x4_t {
    let lanes = &numbers.as_chunks::<LANES>().0[quad];
    // SAFETY: the load reads exactly this array of 4 `f32`.
    unsafe { vld1q_f32(lanes.as_ptr()) }
}

impl Lanes {
    #[inline]
    pub(super) fn load_128(&self, quad: usize) -> float32x4_t {
        load_128(&self.0, quad)
    }

    #[inline]
    pub(super) fn store_128(&mut self, quad: usize, values: float32x4_t) {
        let lanes = &mut self.0.as_chunks_mut::<LANES>().0[quad];
        // SAFETY: the store writes exactly this array of 4 `f32`.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), values) }
    }
}

impl CodePairs {
    #[inline]
    pub(super) fn load_128(&self, quad: usize) -> int16x8_t {
        let pairs = self.0.as_chunks::<LANES>().0[quad].as_flattened();
        // SAFETY: the load reads exactly this array of 4 pairs of `i16`.
        unsafe { vld1q_s16(pairs.as_ptr()) }
    }

    #[inline]
    pub(super) fn store_128(&mut self, quad: usize, pairs: int16x8_t) {
        let out = self.0.as_chunks_mut::<LANES>().0[quad].as_flattened_mut();
        // SAFETY: the store writes exactly this array of 4 pairs of `i16`.
        unsafe { vst1q_s16(out.as_mut_ptr(), pairs) }
    }
}

/// Loads a vector of bytes.
#[inline]
pub(super) fn load(bytes: &[u8; VECTOR_BYTES]) -> uint8x16_t {
    // SAFETY: the load reads exactly this array of 16 bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// Stores a vector of bytes.
#[inline]
pub(super) fn store(bytes: &mut [u8; VECTOR_BYTES], values: uint8x16_t) {
    // SAFETY: the store writes exactly this array of 16 bytes.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), values) }
}

/// Loads half a vector of bytes.
#[inline]
pub(super) fn load_half(bytes: &[u8; VECTOR_BYTES / 2]) -> uint8x8_t {
    // SAFETY: the load reads exactly this array of 8 bytes.
    unsafe { vld1_u8(bytes.as_ptr()) }
}

/// Broadcasts a pair of numbers.
#[inline]
pub(super) fn splat([low, high]: [i16; 2]) -> int16x8_t {
    vreinterpretq_s16_s32(vdupq_n_s32(i32::from(low as u16) | i32::from(high) << 16))
}

/// Transposes 4 rows of 4 words.
#[inline]
pub(super) fn transpose(rows: [uint32x4_t; LANES]) -> [uint32x4_t; LANES] {
    let even = [vtrn1q_u32(rows[0], rows[1]), vtrn1q_u32(rows[2], rows[3])].map(vreinterpretq_u64_u32);
    let odd = [vtrn2q_u32(rows[0], rows[1]), vtrn2q_u32(rows[2], rows[3])].map(vreinterpretq_u64_u32);
    [
        vreinterpretq_u32_u64(vtrn1q_u64(even[0], even[1])),
        vreinterpretq_u32_u64(vtrn1q_u64(odd[0], odd[1])),
        vreinterpretq_u32_u64(vtrn2q_u64(even[0], even[1])),
        vreinterpretq_u32_u64(vtrn2q_u64(odd[0], odd[1])),
    ]
}

/// Extracts the pair `idx` of the codes of `BITS` bits in each word.
#[inline]
pub(super) fn pair<const BITS: usize>(words: uint16x8_t, idx: usize) -> int16x8_t {
    let mask = vdupq_n_u16((1 << BITS) - 1);
    let codes = match BITS * idx {
        0 => vandq_u16(words, mask),
        4 => vandq_u16(vshrq_n_u16::<4>(words), mask),
        8 => vandq_u16(vshrq_n_u16::<8>(words), mask),
        _ => vshrq_n_u16::<12>(words),
    };
    vreinterpretq_s16_u16(codes)
}
