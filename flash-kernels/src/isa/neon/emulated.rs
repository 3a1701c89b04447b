//! Plain Rust versions of the `std::arch::aarch64` intrinsics that the kernels use, with the same names, signatures and
//! semantics (Arm's "Neon Intrinsics Reference"), so that other machines can test the kernels.

#![expect(unsafe_code, reason = "loads and stores are by pointers, as in the original")]
#![expect(non_camel_case_types, reason = "the names are Arm's")]

use std::array::from_fn;

use half::f16;

/// Defines vector types, lane 0 first.
macro_rules! vectors {
    ($($name:ident: [$lane:ty; $lanes:literal];)*) => {
        $(
            #[derive(Debug, Clone, Copy)]
            #[repr(transparent)]
            pub(super) struct $name([$lane; $lanes]);
        )*
    };
}

vectors! {
    float16x4_t: [f16; 4];
    float32x4_t: [f32; 4];
    int16x4_t: [i16; 4];
    int16x8_t: [i16; 8];
    int32x4_t: [i32; 4];
    uint8x8_t: [u8; 8];
    uint8x16_t: [u8; 16];
    uint16x4_t: [u16; 4];
    uint16x8_t: [u16; 8];
    uint32x4_t: [u32; 4];
    uint64x2_t: [u64; 2];
}

/// Defines loads of whole vectors.
macro_rules! load {
    ($($name:ident: $from:ty => $vector:ident;)*) => {
        $(pub(super) unsafe fn $name(ptr: *const $from) -> $vector {
            // SAFETY: the caller guarantees that a vector can be read.
            unsafe { ptr.cast::<$vector>().read_unaligned() }
        })*
    };
}

load! {
    vld1_u8: u8 => uint8x8_t;
    vld1q_u8: u8 => uint8x16_t;
    vld1q_s16: i16 => int16x8_t;
    vld1q_f32: f32 => float32x4_t;
}

pub(super) unsafe fn vst1q_u8(ptr: *mut u8, value: uint8x16_t) {
    // SAFETY: the caller guarantees that a vector can be written.
    unsafe { ptr.cast::<uint8x16_t>().write_unaligned(value) }
}

pub(super) unsafe fn vst1q_s16(ptr: *mut i16, value: int16x8_t) {
    // SAFETY: the caller guarantees that a vector can be written.
    unsafe { ptr.cast::<int16x8_t>().write_unaligned(value) }
}

pub(super) unsafe fn vst1q_f32(ptr: *mut f32, value: float32x4_t) {
    // SAFETY: the caller guarantees that a vector can be written.
    unsafe { ptr.cast::<float32x4_t>().write_unaligned(value) }
}

/// Defines casts between vector types of the same bits, lane 0 in the lowest.
macro_rules! reinterpret {
    ($($name:ident: $from:ident => $to:ident;)*) => {
        $(pub(super) fn $name(value: $from) -> $to {
            // SAFETY: both types have the same size and are valid for all bits.
            unsafe { std::mem::transmute::<$from, $to>(value) }
        })*
    };
}

reinterpret! {
    vreinterpret_u16_u8: uint8x8_t => uint16x4_t;
    vreinterpret_f16_u16: uint16x4_t => float16x4_t;
    vreinterpretq_s16_u8: uint8x16_t => int16x8_t;
    vreinterpretq_u16_u8: uint8x16_t => uint16x8_t;
    vreinterpretq_u32_u8: uint8x16_t => uint32x4_t;
    vreinterpretq_s16_u16: uint16x8_t => int16x8_t;
    vreinterpretq_s16_s32: int32x4_t => int16x8_t;
    vreinterpretq_u16_u32: uint32x4_t => uint16x8_t;
    vreinterpretq_u64_u8: uint8x16_t => uint64x2_t;
    vreinterpretq_u8_u32: uint32x4_t => uint8x16_t;
    vreinterpretq_u8_u64: uint64x2_t => uint8x16_t;
    vreinterpretq_u64_u32: uint32x4_t => uint64x2_t;
    vreinterpretq_u32_u64: uint64x2_t => uint32x4_t;
    vreinterpretq_f32_u32: uint32x4_t => float32x4_t;
    vreinterpretq_u32_f32: float32x4_t => uint32x4_t;
}

pub(super) fn vdupq_n_u8(value: u8) -> uint8x16_t {
    uint8x16_t([value; 16])
}

pub(super) fn vandq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    uint8x16_t(from_fn(|lane| a.0[lane] & b.0[lane]))
}

pub(super) fn veorq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    uint8x16_t(from_fn(|lane| a.0[lane] ^ b.0[lane]))
}

pub(super) fn vshrq_n_u8<const N: i32>(a: uint8x16_t) -> uint8x16_t {
    const { assert!(N >= 1 && N <= 8) };
    uint8x16_t(a.0.map(|a| a.checked_shr(N as u32).unwrap_or(0)))
}

pub(super) fn vshlq_n_s32<const N: i32>(a: int32x4_t) -> int32x4_t {
    const { assert!(N >= 0 && N <= 31) };
    int32x4_t(a.0.map(|a| a << N))
}

pub(super) fn vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    int32x4_t(from_fn(|lane| a.0[lane].wrapping_add(b.0[lane])))
}

pub(super) fn vsubq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    int32x4_t(from_fn(|lane| a.0[lane].wrapping_sub(b.0[lane])))
}

/// `vdotq_s32`, of signed bytes.
pub(super) fn sdot(sums: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    let product = |at: usize| i32::from(a.0[at] as i8) * i32::from(b.0[at] as i8);
    int32x4_t(from_fn(|lane| (4 * lane..4 * (lane + 1)).map(product).fold(sums.0[lane], i32::wrapping_add)))
}

/// `vdotq_laneq_s32`, of signed bytes.
pub(super) fn sdot_word<const WORD: usize>(sums: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    sdot(sums, a, uint8x16_t(from_fn(|at| b.0[4 * WORD + at % 4])))
}

/// `vusmmlaq_s32`, of two rows of 8 bytes each: the products of each unsigned row with each signed one.
pub(super) fn usmmla(sums: int32x4_t, unsigned: uint8x16_t, signed: uint8x16_t) -> int32x4_t {
    int32x4_t(from_fn(|lane| {
        let (row, column) = (lane / 2 * 8, lane % 2 * 8);
        let product = |at: usize| i32::from(unsigned.0[row + at]) * i32::from(signed.0[column + at] as i8);
        (0..8).map(product).fold(sums.0[lane], i32::wrapping_add)
    }))
}

pub(super) fn vdupq_n_u16(value: u16) -> uint16x8_t {
    uint16x8_t([value; 8])
}

pub(super) fn vdupq_n_s32(value: i32) -> int32x4_t {
    int32x4_t([value; 4])
}

pub(super) fn vdupq_n_f32(value: f32) -> float32x4_t {
    float32x4_t([value; 4])
}

pub(super) fn vandq_u16(a: uint16x8_t, b: uint16x8_t) -> uint16x8_t {
    uint16x8_t(from_fn(|lane| a.0[lane] & b.0[lane]))
}

pub(super) fn vshrq_n_u16<const N: i32>(a: uint16x8_t) -> uint16x8_t {
    const { assert!(N >= 1 && N <= 16) };
    uint16x8_t(a.0.map(|a| a.checked_shr(N as u32).unwrap_or(0)))
}

pub(super) fn vshlq_n_u32<const N: i32>(a: uint32x4_t) -> uint32x4_t {
    const { assert!(N >= 0 && N <= 31) };
    uint32x4_t(a.0.map(|a| a << N))
}

pub(super) fn vmovl_u16(a: uint16x4_t) -> uint32x4_t {
    uint32x4_t(a.0.map(u32::from))
}

pub(super) fn vget_low_s16(a: int16x8_t) -> int16x4_t {
    int16x4_t(from_fn(|lane| a.0[lane]))
}

pub(super) fn vmlal_s16(a: int32x4_t, b: int16x4_t, c: int16x4_t) -> int32x4_t {
    int32x4_t(from_fn(|lane| a.0[lane].wrapping_add(i32::from(b.0[lane]) * i32::from(c.0[lane]))))
}

pub(super) fn vmlal_high_s16(a: int32x4_t, b: int16x8_t, c: int16x8_t) -> int32x4_t {
    int32x4_t(from_fn(|lane| a.0[lane].wrapping_add(i32::from(b.0[4 + lane]) * i32::from(c.0[4 + lane]))))
}

/// Adds neighbors: first those of `a`, then those of `b`.
pub(super) fn vpaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.0, b.0);
    let sums = [(a0, a1), (a2, a3), (b0, b1), (b2, b3)];
    int32x4_t(sums.map(|(left, right)| left.wrapping_add(right)))
}

/// Rounds to the nearest, ties to even.
pub(super) fn vcvtq_f32_s32(a: int32x4_t) -> float32x4_t {
    float32x4_t(a.0.map(|a| a as f32))
}

pub(super) fn vcvt_f32_f16(a: float16x4_t) -> float32x4_t {
    float32x4_t(a.0.map(f16::to_f32))
}

pub(super) fn vaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    float32x4_t(from_fn(|lane| a.0[lane] + b.0[lane]))
}

pub(super) fn vmulq_n_f32(a: float32x4_t, b: f32) -> float32x4_t {
    float32x4_t(a.0.map(|a| a * b))
}

/// Computes `a + b · c`, rounded once.
pub(super) fn vfmaq_f32(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    float32x4_t(from_fn(|lane| b.0[lane].mul_add(c.0[lane], a.0[lane])))
}

/// Computes `a + b · c`, rounded once.
pub(super) fn vfmaq_n_f32(a: float32x4_t, b: float32x4_t, c: f32) -> float32x4_t {
    vfmaq_f32(a, b, vdupq_n_f32(c))
}

/// Even lanes of `a`, then of `b`.
pub(super) fn vuzp1q_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    int32x4_t([a.0[0], a.0[2], b.0[0], b.0[2]])
}

/// Odd lanes of `a`, then of `b`.
pub(super) fn vuzp2q_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    int32x4_t([a.0[1], a.0[3], b.0[1], b.0[3]])
}

/// Interleaves the even lanes of both.
pub(super) fn vtrn1q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    uint32x4_t([a.0[0], b.0[0], a.0[2], b.0[2]])
}

/// Interleaves the odd lanes of both.
pub(super) fn vtrn2q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    uint32x4_t([a.0[1], b.0[1], a.0[3], b.0[3]])
}

/// Even lanes of both, in turns.
pub(super) fn vtrn1q_u64(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
    uint64x2_t([a.0[0], b.0[0]])
}

/// Odd lanes of both, in turns.
pub(super) fn vtrn2q_u64(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
    uint64x2_t([a.0[1], b.0[1]])
}
