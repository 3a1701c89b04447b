//! The NEON intrinsics that the kernels use; those that do not access memory are wrapped as safe functions.

#![expect(unsafe_code, reason = "instructions are unsafe to use where a processor may lack them")]

pub(super) use std::arch::aarch64::{
    float16x4_t, float32x4_t, int16x4_t, int16x8_t, int32x4_t, uint8x8_t, uint8x16_t, uint16x4_t, uint16x8_t,
    uint32x4_t, uint64x2_t, vld1_u8, vld1q_f32, vld1q_s16, vld1q_u8, vst1q_f32, vst1q_s16, vst1q_u8,
};
use std::arch::{aarch64, asm};

/// Defines safe wrappers of the intrinsics of the same names.
macro_rules! safe {
    ($($name:ident($($argument:ident: $from:ty),*) -> $to:ty;)*) => {
        $(#[inline(always)]
        pub(super) fn $name($($argument: $from),*) -> $to {
            // SAFETY: every `AArch64` processor has NEON.
            unsafe { aarch64::$name($($argument),*) }
        })*
    };
}

safe! {
    vdupq_n_u8(value: u8) -> uint8x16_t;
    vdupq_n_u16(value: u16) -> uint16x8_t;
    vdupq_n_s32(value: i32) -> int32x4_t;
    vdupq_n_f32(value: f32) -> float32x4_t;
    vandq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    veorq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vandq_u16(a: uint16x8_t, b: uint16x8_t) -> uint16x8_t;
    vmovl_u16(a: uint16x4_t) -> uint32x4_t;
    vget_low_s16(a: int16x8_t) -> int16x4_t;
    vmlal_s16(a: int32x4_t, b: int16x4_t, c: int16x4_t) -> int32x4_t;
    vmlal_high_s16(a: int32x4_t, b: int16x8_t, c: int16x8_t) -> int32x4_t;
    vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vsubq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vpaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vcvtq_f32_s32(a: int32x4_t) -> float32x4_t;
    vcvt_f32_f16(a: float16x4_t) -> float32x4_t;
    vaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vmulq_n_f32(a: float32x4_t, b: f32) -> float32x4_t;
    vfmaq_f32(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t;
    vfmaq_n_f32(a: float32x4_t, b: float32x4_t, c: f32) -> float32x4_t;
    vtrn1q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vtrn2q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vuzp1q_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vuzp2q_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vtrn1q_u64(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t;
    vtrn2q_u64(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t;
    vreinterpret_u16_u8(value: uint8x8_t) -> uint16x4_t;
    vreinterpret_f16_u16(value: uint16x4_t) -> float16x4_t;
    vreinterpretq_s16_u8(value: uint8x16_t) -> int16x8_t;
    vreinterpretq_u16_u8(value: uint8x16_t) -> uint16x8_t;
    vreinterpretq_u32_u8(value: uint8x16_t) -> uint32x4_t;
    vreinterpretq_s16_u16(value: uint16x8_t) -> int16x8_t;
    vreinterpretq_s16_s32(value: int32x4_t) -> int16x8_t;
    vreinterpretq_u16_u32(value: uint32x4_t) -> uint16x8_t;
    vreinterpretq_u64_u8(value: uint8x16_t) -> uint64x2_t;
    vreinterpretq_u8_u32(value: uint32x4_t) -> uint8x16_t;
    vreinterpretq_u8_u64(value: uint64x2_t) -> uint8x16_t;
    vreinterpretq_u64_u32(value: uint32x4_t) -> uint64x2_t;
    vreinterpretq_u32_u64(value: uint64x2_t) -> uint32x4_t;
    vreinterpretq_f32_u32(value: uint32x4_t) -> float32x4_t;
    vreinterpretq_u32_f32(value: float32x4_t) -> uint32x4_t;
}

#[inline(always)]
pub(super) fn vshrq_n_u16<const N: i32>(a: uint16x8_t) -> uint16x8_t {
    // SAFETY: every `AArch64` processor has NEON.
    unsafe { aarch64::vshrq_n_u16::<N>(a) }
}

#[inline(always)]
pub(super) fn vshlq_n_u32<const N: i32>(a: uint32x4_t) -> uint32x4_t {
    // SAFETY: every `AArch64` processor has NEON.
    unsafe { aarch64::vshlq_n_u32::<N>(a) }
}

#[inline(always)]
pub(super) fn vshrq_n_u8<const N: i32>(a: uint8x16_t) -> uint8x16_t {
    // SAFETY: every `AArch64` processor has NEON.
    unsafe { aarch64::vshrq_n_u8::<N>(a) }
}

#[inline(always)]
pub(super) fn vshlq_n_s32<const N: i32>(a: int32x4_t) -> int32x4_t {
    // SAFETY: every `AArch64` processor has NEON.
    unsafe { aarch64::vshlq_n_s32::<N>(a) }
}

/// Adds to each word of `sums` the products of four signed bytes. The intrinsic, `vdotq_s32`, is not stable yet.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn sdot(mut sums: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // SAFETY: the instruction only reads and writes these registers.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// [`sdot`] of four bytes of `a` at a time with the same word of `b`, for codes of one row in each word of `a`.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn sdot_word<const WORD: usize>(mut sums: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // SAFETY: the instruction only reads and writes these registers.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{word}]",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            word = const WORD,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Adds to `sums`, a matrix of two rows, the products of two rows of 8 unsigned bytes with two rows of 8 signed ones. The
/// intrinsic, `vusmmlaq_s32`, is not stable yet.
#[inline]
#[target_feature(enable = "i8mm")]
pub(super) fn usmmla(mut sums: int32x4_t, unsigned: uint8x16_t, signed: uint8x16_t) -> int32x4_t {
    // SAFETY: the instruction only reads and writes these registers.
    unsafe {
        asm!(
            "usmmla {sums:v}.4s, {unsigned:v}.16b, {signed:v}.16b",
            sums = inout(vreg) sums,
            unsigned = in(vreg) unsigned,
            signed = in(vreg) signed,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
