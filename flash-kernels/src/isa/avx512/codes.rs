//! Few rows of activations: codes go from the stored bytes straight into dot products.
//!
//! A line of the cache is multiplied byte by byte with activations in the same order, each cut in two signed digits
//! of 8 bits: a row's codes stay in their row's vector, and only its sums change places with those of other rows.

#![expect(unsafe_code, reason = "loads through pointers: 16 rows at a time leave no room for checks of each")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::{EVEN, ODD};
use super::{HALVES, LANES};
use crate::activations::{FixedVector, LINE_BYTES};
use crate::tile::{CodeBits, CodeRows, GroupLanes, Lanes};

/// Rows whose dot products one vector holds, a quarter for each.
const QUADS: usize = LANES / 4;

/// How far ahead lines are fetched: with less they come too late, with more they leave the cache before their turn.
const ROWS_AHEAD: usize = 16;

/// Lines of a row that are multiplied before the next rows are: with the sums of 16 rows, 8 KiB.
const BLOCK_LINES: usize = 32;

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply(
    rows: CodeRows<'_>,
    groups: Range<usize>,
    scales: &GroupLanes,
    x: &FixedVector,
    acc: &mut Lanes,
) {
    match (rows.bits, rows.group) {
        (CodeBits::Four, 32) => multiply_groups::<4, 32>(rows, groups, scales, x, acc),
        (CodeBits::Four, 64) => multiply_groups::<4, 64>(rows, groups, scales, x, acc),
        (CodeBits::Four, _) => multiply_groups::<4, 128>(rows, groups, scales, x, acc),
        (CodeBits::Eight, 32) => multiply_groups::<8, 32>(rows, groups, scales, x, acc),
        (CodeBits::Eight, 64) => multiply_groups::<8, 64>(rows, groups, scales, x, acc),
        (CodeBits::Eight, _) => multiply_groups::<8, 128>(rows, groups, scales, x, acc),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_groups<const BITS: usize, const GROUP: usize>(
    rows: CodeRows<'_>,
    groups: Range<usize>,
    scales: &GroupLanes,
    x: &FixedVector,
    acc: &mut Lanes,
) {
    let group_bytes = GROUP * BITS / 8;
    let bytes = group_bytes * groups.start..group_bytes * groups.end;
    let row_bytes = rows.rows.row_bytes();
    assert!(rows.group == GROUP && rows.bits.width() == BITS && bytes.end <= row_bytes);
    assert!(scales.scales.len() == groups.len() && scales.biases.len() == groups.len());
    assert!(bytes.start.is_multiple_of(LINE_BYTES), "the first group starts a line");
    let terms = &x.terms[groups.clone()];
    let line_planes = 16 / BITS;
    let planes =
        &x.planes[bytes.start / LINE_BYTES * line_planes..bytes.end.div_ceil(LINE_BYTES) * line_planes];

    let mut quads = [[_mm512_setzero_si512(); QUADS]; BLOCK_LINES];
    for half in 0..HALVES {
        let start = rows.rows.bytes()[half * LANES * row_bytes + bytes.start..].as_ptr();
        let mut sum = acc.load_512(half);
        let mut carried = _mm512_setzero_si512();
        for (block_idx, planes) in planes.chunks(BLOCK_LINES * line_planes).enumerate() {
            let block_start = block_idx * BLOCK_LINES * LINE_BYTES;
            // Four rows at a time along the block: as far as they follow each other in memory, so does what is read.
            for quad in 0..QUADS {
                for (line_idx, (planes, quads)) in
                    planes.chunks_exact(line_planes).zip(&mut quads).enumerate()
                {
                    let line_start = block_start + line_idx * LINE_BYTES;
                    let len = bytes.len() - line_start;
                    let line = Line { start: start.wrapping_add(line_start), row_bytes, len };
                    // SAFETY: these bytes are in the rows, by the assertion on their end.
                    quads[quad] = unsafe {
                        if BITS == 4 {
                            let [a, b] = [planes[0].load_512(), planes[1].load_512()];
                            line.nibbles(4 * quad, [a, b, planes[2].load_512(), planes[3].load_512()])
                        } else {
                            line.bytes(4 * quad, [planes[0].load_512(), planes[1].load_512()])
                        }
                    };
                }
            }
            let n_lines = planes.len() / line_planes;
            for (line_idx, quads) in quads[..n_lines].iter().enumerate() {
                let group = (block_start + line_idx * LINE_BYTES) / group_bytes;
                let mut add = |group: usize, dot: __m512i| {
                    let (scale, bias) =
                        (scales.scales[group].load_512(half), scales.biases[group].load_512(half));
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(terms[group].scale));
                    sum = _mm512_fmadd_ps(scaled, scale, sum);
                    sum = _mm512_fmadd_ps(_mm512_set1_ps(terms[group].sum), bias, sum);
                };
                match LINE_BYTES / group_bytes {
                    4 => {
                        for (idx, dot) in quarters(*quads).into_iter().enumerate() {
                            if group + idx < groups.len() {
                                add(group + idx, dot);
                            }
                        }
                    }
                    2 => {
                        let [first, second] = halves(*quads);
                        add(group, first);
                        if group + 1 < groups.len() {
                            add(group + 1, second);
                        }
                    }
                    1 => add(group, whole(*quads)),
                    // Two lines a group.
                    _ if line_idx % 2 == 0 => carried = whole(*quads),
                    _ => add(group, _mm512_add_epi32(carried, whole(*quads))),
                }
            }
        }
        acc.store_512(half, sum);
    }
}

/// A line of each of 16 rows, and what follows it.
#[derive(Clone, Copy)]
struct Line {
    start: *const u8,
    row_bytes: usize,
    /// Bytes that are stored of each row from here on.
    len: usize,
}

impl Line {
    /// Loads the line of one row; what is not stored is zero.
    ///
    /// # Safety
    /// The bytes of the row must be readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(self, row: usize) -> __m512i {
        let start = self.start.wrapping_add(row * self.row_bytes);
        // Behind the last row there may be nothing, and a prefetch cannot fault.
        _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(ROWS_AHEAD * self.row_bytes).cast());
        // SAFETY: the caller's promise; the mask keeps what is stored.
        unsafe {
            if self.len >= LINE_BYTES {
                _mm512_loadu_si512(start.cast())
            } else {
                _mm512_maskz_loadu_epi8(u64::MAX >> (LINE_BYTES - self.len), start.cast())
            }
        }
    }

    /// Multiplies the codes of 4 bits in four rows from `row` on with the activations' upper digits (of codes in
    /// lower, then upper halves of bytes) and lower digits; a sum of each row for each quarter of the line.
    ///
    /// # Safety
    /// As [`load`](Self::load), for these rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn nibbles(self, row: usize, x: [__m512i; 4]) -> __m512i {
        let mask = _mm512_set1_epi8(15);
        let mut dots = [_mm512_setzero_si512(); 4];
        for (idx, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let bytes = unsafe { self.load(row + idx) };
            let low = _mm512_and_si512(bytes, mask);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
            let upper = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(*dot, low, x[0]), high, x[1]);
            *dot = _mm512_dpbusd_epi32(_mm512_slli_epi32::<8>(upper), low, x[2]);
            *dot = _mm512_dpbusd_epi32(*dot, high, x[3]);
        }
        add_within_quarters(dots)
    }

    /// The same for codes of 8 bits.
    ///
    /// # Safety
    /// As [`load`](Self::load), for these rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn bytes(self, row: usize, x: [__m512i; 2]) -> __m512i {
        let mut dots = [_mm512_setzero_si512(); 4];
        for (idx, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let bytes = unsafe { self.load(row + idx) };
            let upper = _mm512_dpbusd_epi32(*dot, bytes, x[0]);
            *dot = _mm512_dpbusd_epi32(_mm512_slli_epi32::<8>(upper), bytes, x[1]);
        }
        add_within_quarters(dots)
    }
}

/// Adds the four words in each quarter of four vectors: quarter `q` of the result has that of each vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_within_quarters(rows: [__m512i; 4]) -> __m512i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low, high) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high))
}

/// Each quarter of four vectors, gathered.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let even = [_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(c, d)];
    let odd = [_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(c, d)];
    [
        _mm512_shuffle_i32x4::<EVEN>(even[0], even[1]),
        _mm512_shuffle_i32x4::<EVEN>(odd[0], odd[1]),
        _mm512_shuffle_i32x4::<ODD>(even[0], even[1]),
        _mm512_shuffle_i32x4::<ODD>(odd[0], odd[1]),
    ]
}

/// Adds the quarters in each half of four vectors, and gathers the sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves([a, b, c, d]: [__m512i; 4]) -> [__m512i; 2] {
    let pair = |a, b| _mm512_add_epi32(_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b));
    let (low, high) = (pair(a, b), pair(c, d));
    [_mm512_shuffle_i32x4::<EVEN>(low, high), _mm512_shuffle_i32x4::<ODD>(low, high)]
}

/// Adds all quarters in each of four vectors, and gathers the sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole(quads: [__m512i; 4]) -> __m512i {
    let [first, second] = halves(quads);
    _mm512_add_epi32(first, second)
}
