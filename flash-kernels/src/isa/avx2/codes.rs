//! Few rows of activations: dot products straight from the stored codes.
//!
//! Codes are not transposed: shifts and masks extract two of them per word in the vector of their row, and only the
//! sums are rearranged across rows.

#![expect(
    unsafe_code,
    reason = "loads through pointers: bounds checks of 8 rows at a time would be too slow"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::floats::decode;
use super::transpose::{LOWER, UPPER};
use super::vectors::VECTOR_BYTES;
use super::{LANES, OCTETS};
use crate::activations::{FixedVector, LINE_BYTES, Plane};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::tile::{CodeBits, CodeRows, Lanes, TILE};

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &FixedVector, acc: &mut Lanes) {
    match (tile.codes.bits, tile.codes.group) {
        (CodeBits::Four, 32) => multiply_tile::<4, 32>(tile, x, acc),
        (CodeBits::Four, 64) => multiply_tile::<4, 64>(tile, x, acc),
        (CodeBits::Four, _) => multiply_tile::<4, 128>(tile, x, acc),
        (CodeBits::Eight, 32) => multiply_tile::<8, 32>(tile, x, acc),
        (CodeBits::Eight, 64) => multiply_tile::<8, 64>(tile, x, acc),
        (CodeBits::Eight, _) => multiply_tile::<8, 128>(tile, x, acc),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_tile<const BITS: usize, const GROUP: usize>(
    tile: &AffineTile<'_>,
    x: &FixedVector,
    acc: &mut Lanes,
) {
    let mut chains = [Lanes::ZERO; CHAINS];
    let [mut scales, mut biases] = [[Lanes::ZERO; CHAINS]; 2];
    // One group of each chain at a time.
    for start in (0..tile.n_groups()).step_by(CHAINS) {
        let groups = start..tile.n_groups().min(start + CHAINS);
        decode(tile.scales, groups.clone(), &mut scales[..groups.len()]);
        decode(tile.biases, groups.clone(), &mut biases[..groups.len()]);
        multiply_groups::<BITS, GROUP>(tile.codes, groups, (&scales, &biases), x, &mut chains);
    }
    chains.iter().for_each(|chain| acc.add(chain));
}

#[target_feature(enable = "avx2,fma")]
fn multiply_groups<const BITS: usize, const GROUP: usize>(
    rows: CodeRows<'_>,
    groups: Range<usize>,
    (scales, biases): (&[Lanes; CHAINS], &[Lanes; CHAINS]),
    x: &FixedVector,
    chains: &mut [Lanes; CHAINS],
) {
    let group_bytes = GROUP * BITS / 8;
    let bytes = group_bytes * groups.start..group_bytes * groups.end;
    let row_bytes = rows.rows.row_bytes();
    assert!(rows.group == GROUP && rows.bits.width() == BITS && bytes.end <= row_bytes);
    assert!(bytes.start.is_multiple_of(LINE_BYTES), "the first group starts a line");
    let (x_scales, x_sums) = (&x.scales[groups.clone()], &x.sums[groups.clone()]);
    let line_planes = 16 / BITS;
    let planes =
        &x.planes[bytes.start / LINE_BYTES * line_planes..bytes.end.div_ceil(LINE_BYTES) * line_planes];

    let next_tile = rows.rows.bytes().as_ptr().wrapping_add(TILE * (row_bytes + bytes.start));
    for octet in 0..OCTETS {
        let start = rows.rows.bytes()[octet * LANES * row_bytes + bytes.start..].as_ptr();
        let ahead = next_tile.wrapping_add(octet * LANES * bytes.len());
        let block = Block { start, row_bytes, ahead, planes };
        let mut add = |group: usize, dot: __m256i| {
            let (scale, bias) = (scales[group].load_256(octet), biases[group].load_256(octet));
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(x_scales[group]));
            let sum = _mm256_fmadd_ps(scaled, scale, chains[group].load_256(octet));
            let sum = _mm256_fmadd_ps(_mm256_set1_ps(x_sums[group]), bias, sum);
            chains[group].store_256(octet, sum);
        };
        if group_bytes < VECTOR_BYTES {
            // Two groups per vector; the last vector may have only one.
            let (n_vectors, rest) = (groups.len() / 2, groups.len() % 2);
            for at in 0..n_vectors {
                // SAFETY: both groups are in the rows, by the assertion on their end.
                let [first, second] = regroup_halves(unsafe { block.dots::<BITS, 1, false>(at) });
                add(2 * at, first);
                add(2 * at + 1, second);
            }
            if rest == 1 {
                // SAFETY: one more group is in the rows, and only its bytes are loaded.
                let [last, _] = regroup_halves(unsafe { block.dots::<BITS, 1, true>(n_vectors) });
                add(2 * n_vectors, last);
            }
        } else {
            for group in 0..groups.len() {
                // SAFETY: the group is in the rows, by the assertion on their end.
                let dots = unsafe {
                    match group_bytes / VECTOR_BYTES {
                        1 => block.dots::<BITS, 1, false>(group),
                        2 => block.dots::<BITS, 2, false>(group),
                        _ => block.dots::<BITS, 4, false>(group),
                    }
                };
                let [first, second] = regroup_halves(dots);
                add(group, _mm256_add_epi32(first, second));
            }
        }
    }
}

/// Stored codes of 8 rows, and their activations.
#[derive(Clone, Copy)]
struct Block<'a> {
    start: *const u8,
    row_bytes: usize,
    ahead: *const u8,
    planes: &'a [Plane],
}

impl Block<'_> {
    /// Returns the dot products of the `at`-th block of `VECTORS` vectors of codes in each row, for the first four rows
    /// and for the other four, with a partial sum of each row in both halves of a vector. With `HALF`, only the lower
    /// half of the vector is read and the upper sums are zero.
    ///
    /// # Safety
    /// The bytes of the vectors, or of the half, must be readable in all rows.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dots<const BITS: usize, const VECTORS: usize, const HALF: bool>(
        self,
        at: usize,
    ) -> [__m256i; 2] {
        let mut sums = [_mm256_setzero_si256(); 2];
        for (idx, sum) in sums.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            *sum = unsafe { self.four_dots::<BITS, VECTORS, HALF>(at, 4 * idx) };
        }
        sums
    }

    /// [`dots`](Self::dots) of the four rows from `row` on.
    ///
    /// # Safety
    /// See [`dots`](Self::dots).
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn four_dots<const BITS: usize, const VECTORS: usize, const HALF: bool>(
        self,
        at: usize,
        row: usize,
    ) -> __m256i {
        let ahead = self.ahead.wrapping_add((at * LANES + row) * VECTORS * VECTOR_BYTES);
        for line in 0..4 * VECTORS * VECTOR_BYTES / LINE_BYTES {
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line * LINE_BYTES).cast());
        }
        let mut dots = [_mm256_setzero_si256(); 4];
        for vector in at * VECTORS..(at + 1) * VECTORS {
            let (line, half) = (vector / 2, vector % 2);
            let planes = &self.planes[line * (16 / BITS)..][..16 / BITS];
            for (idx, dot) in dots.iter_mut().enumerate() {
                let start = self.start.wrapping_add((row + idx) * self.row_bytes + vector * VECTOR_BYTES);
                // SAFETY: guaranteed by the caller.
                let words = unsafe {
                    if HALF {
                        _mm256_zextsi128_si256(_mm_loadu_si128(start.cast()))
                    } else {
                        _mm256_loadu_si256(start.cast())
                    }
                };
                *dot = _mm256_add_epi32(*dot, multiply_words::<BITS>(words, planes, half));
            }
        }
        add_within_halves(dots)
    }
}

/// Multiplies the codes of each word with their activations and adds the products.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_words<const BITS: usize>(words: __m256i, planes: &[Plane], half: usize) -> __m256i {
    let x = |shift: usize| planes[shift].load_256(half);
    if BITS == 4 {
        let mask = _mm256_set1_epi16(15);
        let first = _mm256_and_si256(words, mask);
        let second = _mm256_and_si256(_mm256_srli_epi16::<4>(words), mask);
        let third = _mm256_and_si256(_mm256_srli_epi16::<8>(words), mask);
        let fourth = _mm256_srli_epi16::<12>(words);
        _mm256_add_epi32(
            _mm256_add_epi32(_mm256_madd_epi16(first, x(0)), _mm256_madd_epi16(second, x(1))),
            _mm256_add_epi32(_mm256_madd_epi16(third, x(2)), _mm256_madd_epi16(fourth, x(3))),
        )
    } else {
        let first = _mm256_and_si256(words, _mm256_set1_epi16(255));
        let second = _mm256_srli_epi16::<8>(words);
        _mm256_add_epi32(_mm256_madd_epi16(first, x(0)), _mm256_madd_epi16(second, x(1)))
    }
}

/// Adds the four words in each half of four vectors: half `h` of the result has the sums of that half of each vector.
#[inline]
#[target_feature(enable = "avx2")]
fn add_within_halves(rows: [__m256i; 4]) -> __m256i {
    let pair = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (low, high) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
    _mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high))
}

/// Returns the lower halves of two vectors, then the upper halves.
#[inline]
#[target_feature(enable = "avx2")]
fn regroup_halves([a, b]: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_permute2x128_si256::<LOWER>(a, b), _mm256_permute2x128_si256::<UPPER>(a, b)]
}
