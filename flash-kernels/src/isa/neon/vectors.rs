//! Between memory and vectors. The layouts of a tile are eight vectors each, and `quad` is which.

#![expect(unsafe_code, reason = "loads and stores are by pointers")]

use super::LANES;
use super::intrinsics::*;
use crate::tile::{CodePairs, Lanes, TILE};

/// Bytes of a vector.
pub(super) const VECTOR_BYTES: usize = 16;

/// One number for each row of a tile, wherever they lie.
#[inline]
pub(super) fn load_128(numbers: &[f32; TILE], quad: usize) -> float32x4_t {
    let lanes = &numbers.as_chunks::<LANES>().0[quad];
    // SAFETY: an array of 4 `f32` is what is read.
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
        // SAFETY: an array of 4 `f32` is what is written.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), values) }
    }
}

impl CodePairs {
    #[inline]
    pub(super) fn load_128(&self, quad: usize) -> int16x8_t {
        let pairs = self.0.as_chunks::<LANES>().0[quad].as_flattened();
        // SAFETY: an array of 4 pairs of `i16` is what is read.
        unsafe { vld1q_s16(pairs.as_ptr()) }
    }

    #[inline]
    pub(super) fn store_128(&mut self, quad: usize, pairs: int16x8_t) {
        let out = self.0.as_chunks_mut::<LANES>().0[quad].as_flattened_mut();
        // SAFETY: an array of 4 pairs of `i16` is what is written.
        unsafe { vst1q_s16(out.as_mut_ptr(), pairs) }
    }
}

/// A vector of bytes.
#[inline]
pub(super) fn load(bytes: &[u8; VECTOR_BYTES]) -> uint8x16_t {
    // SAFETY: an array of 16 bytes is what is read.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// Half a vector of bytes.
#[inline]
pub(super) fn load_half(bytes: &[u8; VECTOR_BYTES / 2]) -> uint8x8_t {
    // SAFETY: an array of 8 bytes is what is read.
    unsafe { vld1_u8(bytes.as_ptr()) }
}

/// A pair of numbers, four times.
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

/// The pair `idx` of the codes of `BITS` bits in each word.
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
