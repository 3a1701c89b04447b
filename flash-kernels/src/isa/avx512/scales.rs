//! Scales and biases, read from their rows as stored, or of half a tile.

#![expect(unsafe_code, reason = "loads of a row's last groups are masked, which no slice can express")]

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::floats::{decode_half, load_strip};
use super::prefetch::{self, Policy};
use super::rows::ROWS;
use crate::activations::LINE_BYTES;
use crate::chains::CHAINS;
use crate::isa::x86::HalfFloats;
use crate::tile::{FloatRows, TILE};

impl HalfFloats<'_> {
    /// Decodes some groups, at most one of each chain, before they are loaded.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn decode_512(&mut self, groups: Range<usize>) {
        let (rows, half) = (self.rows, self.half);
        if let Some(out) = self.buffer(&groups) {
            decode_half(rows, half, groups, out);
        }
    }

    /// Returns the numbers of a group.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn load_512(&self, group_idx: usize) -> __m512 {
        match self.decoded(group_idx) {
            Some(lanes) => lanes.load_512(self.half),
            None => load_strip(self.rows, self.half, group_idx),
        }
    }
}

/// Scales or biases of four rows, stored as `F` and prefetched with policy `A`.
pub(super) struct ScaleRows<F, A> {
    start: *const u8,
    row_bytes: usize,
    stored: PhantomData<(F, A)>,
}

impl<F: Stored, A: Policy> ScaleRows<F, A> {
    #[inline]
    pub(super) fn new(rows: FloatRows<'_>, n_groups: usize) -> Self {
        let row_bytes = n_groups * F::SIZE_BYTES;
        assert!(rows.rows.row_bytes() == row_bytes && rows.rows.bytes().len() == TILE * row_bytes);
        Self { start: rows.rows.bytes().as_ptr(), row_bytes, stored: PhantomData }
    }

    /// Returns the four rows from `row` on, which must be in the tile.
    #[inline]
    pub(super) fn at_row(&self, row: usize) -> Self {
        Self { start: self.start.wrapping_add(row * self.row_bytes), ..*self }
    }

    /// Prefetches as many bytes ahead as four rows have for the groups of the chains from `group_start` on. Prefetching
    /// all of them at the beginning of a row would delay its codes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn prefetch(&self, group_start: usize) {
        let ahead = self.start.wrapping_add(A::SCALES_BYTES + ROWS * group_start * F::SIZE_BYTES);
        for offset in (0..ROWS * CHAINS * F::SIZE_BYTES).step_by(LINE_BYTES) {
            prefetch::line::<A>(ahead.wrapping_add(offset));
        }
    }

    /// Loads the groups from `group_start` on that `mask` selects; the others are zero.
    ///
    /// # Safety
    /// The row, one of four, must have these groups, and the processor must support the instructions.
    #[inline]
    pub(super) unsafe fn load(&self, row: usize, group_start: usize, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { F::load(self.start.wrapping_add(row * self.row_bytes + group_start * F::SIZE_BYTES), mask) }
    }
}

/// A storage type of floating-point numbers.
pub(super) trait Stored {
    const SIZE_BYTES: usize;

    /// Loads the numbers from `start` on that `mask` selects; the others are zero.
    ///
    /// # Safety
    /// The selected numbers must be readable, and the processor must have AVX-512 F, BW and VL.
    unsafe fn load(start: *const u8, mask: u16) -> __m512;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Stored for F32 {
    const SIZE_BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(start: *const u8, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_maskz_loadu_ps(mask, start.cast()) }
    }
}

impl Stored for F16 {
    const SIZE_BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(start: *const u8, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, start.cast()) })
    }
}

impl Stored for Bf16 {
    const SIZE_BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(start: *const u8, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller.
        let upper = _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, start.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper))
    }
}
