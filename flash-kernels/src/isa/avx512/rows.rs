//! One row of activations and weights in rows: dot products straight from the stored codes.
//!
//! A cache line of codes is multiplied byte by byte with activations in the same order, each split into two signed
//! 8-bit digits. The results of a row's lines are added up to one vector of the dot products of 16 groups, one per
//! chain, in the order of the row's scales and biases. A row is thus read from its first byte to its last, and nothing
//! is rearranged across rows.

#![expect(
    unsafe_code,
    reason = "loads through pointers: bounds checks of four rows at a time would be too slow"
)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::prefetch::{self, L1, L1NonTemporal, L2, Policy};
use super::scales::{Bf16, F16, F32, ScaleRows, Stored};
use super::transpose::{EVEN, ODD, transpose};
use super::{HALVES, LANES};
use crate::activations::{FixedVector, LINE_BYTES};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::float::FloatType;
use crate::prefetch::Prefetch;
use crate::tile::{CodeBits, Lanes, Layout, TILE};

/// Rows multiplied at a time: their activations are loaded into registers once.
pub(super) const ROWS: usize = 4;

/// Lines multiplied at a time: each contributes a quarter of a vector.
const LINES: usize = 4;

/// Bytes of a row multiplied at a time.
const FOUR_BYTES: usize = LINES * LINE_BYTES;

/// Adds to `acc` the dot products of `x` with the rows of the tile, which are in rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &FixedVector, acc: &mut Lanes) {
    assert!(tile.codes.layout == Layout::Rows && tile.scales.layout == Layout::Rows);
    assert!(tile.scales.float == tile.biases.float, "scales and biases of one type");
    match tile.prefetch {
        Prefetch::Near => multiply_with::<L1>(tile, x, acc),
        Prefetch::NonTemporal => multiply_with::<L1NonTemporal>(tile, x, acc),
        Prefetch::Far => multiply_with::<L2>(tile, x, acc),
    }
}

/// Multiplies with prefetching policy `A`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_with<A: Policy>(tile: &AffineTile<'_>, x: &FixedVector, acc: &mut Lanes) {
    match tile.scales.float {
        FloatType::F32 => multiply_as::<F32, A>(tile, x, acc),
        FloatType::F16 => multiply_as::<F16, A>(tile, x, acc),
        FloatType::BF16 => multiply_as::<Bf16, A>(tile, x, acc),
    }
}

/// Multiplies with scales and biases stored as `F`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_as<F: Stored, A: Policy>(tile: &AffineTile<'_>, x: &FixedVector, acc: &mut Lanes) {
    let group_bytes = tile.codes.bits.bytes(tile.codes.group);
    match (tile.codes.bits, CHAINS * group_bytes / FOUR_BYTES) {
        (CodeBits::Four, 1) => multiply_tile::<F, A, 4, 1>(tile, x, acc),
        (CodeBits::Four, 2) => multiply_tile::<F, A, 4, 2>(tile, x, acc),
        (CodeBits::Four, _) => multiply_tile::<F, A, 4, 4>(tile, x, acc),
        (CodeBits::Eight, 2) => multiply_tile::<F, A, 2, 2>(tile, x, acc),
        (CodeBits::Eight, 4) => multiply_tile::<F, A, 2, 4>(tile, x, acc),
        (CodeBits::Eight, _) => multiply_tile::<F, A, 2, 8>(tile, x, acc),
    }
}

/// Multiplies codes with `PLANES` planes of activations per line, where one group of each chain takes `FOURS` times
/// four lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_tile<F: Stored, A: Policy, const PLANES: usize, const FOURS: usize>(
    tile: &AffineTile<'_>,
    x: &FixedVector,
    acc: &mut Lanes,
) {
    let rows = FourRows::<F, A, PLANES, FOURS>::new(tile, x);
    for half in 0..HALVES {
        // `[rows]`, one lane per chain.
        let mut chains = [_mm512_setzero_si512(); LANES];
        for (idx, chains) in chains.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            for (words, chain) in chains.iter_mut().zip(rows.at_row(half * LANES + ROWS * idx).multiply()) {
                *words = _mm512_castps_si512(chain);
            }
        }
        rows.at_row((half + 1) * LANES).prefetch_codes();
        let mut sum = acc.load_512(half);
        for chain in transpose(&chains) {
            sum = _mm512_add_ps(sum, _mm512_castsi512_ps(chain));
        }
        acc.store_512(half, sum);
    }
}

/// Four rows of a tile, and the activations they are multiplied with.
struct FourRows<'a, F, A, const PLANES: usize, const FOURS: usize> {
    codes: *const u8,
    codes_bytes: usize,
    scales: ScaleRows<F, A>,
    biases: ScaleRows<F, A>,
    n_groups: usize,
    x: &'a FixedVector,
}

impl<'a, F: Stored, A: Policy, const PLANES: usize, const FOURS: usize> FourRows<'a, F, A, PLANES, FOURS> {
    const GROUP_BYTES: usize = FOURS * FOUR_BYTES / CHAINS;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(tile: &AffineTile<'a>, x: &'a FixedVector) -> Self {
        let codes = tile.codes.rows;
        let codes_bytes = codes.row_bytes();
        let n_groups = codes_bytes / Self::GROUP_BYTES;
        assert!(codes_bytes == n_groups * Self::GROUP_BYTES && codes.bytes().len() == TILE * codes_bytes);
        assert!(x.scales.len().min(x.sums.len()) >= n_groups.next_multiple_of(CHAINS));
        assert!(x.planes.len() >= codes_bytes.div_ceil(LINE_BYTES) * PLANES);
        Self {
            codes: codes.bytes().as_ptr(),
            codes_bytes,
            scales: ScaleRows::new(tile.scales, n_groups),
            biases: ScaleRows::new(tile.biases, n_groups),
            n_groups,
            x,
        }
    }

    /// Returns the four rows from `row` on, which must be in the tile.
    #[inline]
    fn at_row(&self, row: usize) -> Self {
        Self {
            codes: self.codes.wrapping_add(row * self.codes_bytes),
            scales: self.scales.at_row(row),
            biases: self.biases.at_row(row),
            ..*self
        }
    }

    /// Prefetches codes while the chains are transposed.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn prefetch_codes(&self) {
        for line in 0..A::TRANSPOSE_LINES {
            prefetch::line::<A>(self.codes.wrapping_add(A::ROWS_BYTES + line * LINE_BYTES));
        }
    }

    /// Returns the chains of each row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn multiply(&self) -> [__m512; ROWS] {
        let mut chains = [_mm512_setzero_ps(); ROWS];
        let whole = self.n_groups / CHAINS * CHAINS;
        for group_start in (0..whole).step_by(CHAINS) {
            self.add(group_start, u16::MAX, self.dots(group_start * Self::GROUP_BYTES), &mut chains);
        }
        if whole < self.n_groups {
            let mask = u16::MAX >> (CHAINS - (self.n_groups - whole));
            self.add(whole, mask, self.last_dots(whole * Self::GROUP_BYTES), &mut chains);
        }
        chains
    }

    /// Adds to each chain one group, of those from `group_start` on that `mask` selects.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn add(&self, group_start: usize, mask: u16, dots: [__m512i; ROWS], chains: &mut [__m512; ROWS]) {
        self.scales.prefetch(group_start);
        self.biases.prefetch(group_start);
        let x_scales = load(&self.x.scales, group_start);
        let x_sums = load(&self.x.sums, group_start);
        for row in 0..ROWS {
            // SAFETY: the mask selects groups that each row has.
            let (scale, bias) = unsafe {
                (self.scales.load(row, group_start, mask), self.biases.load(row, group_start, mask))
            };
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[row]), x_scales);
            // Lanes without a group add zero.
            chains[row] = _mm512_fmadd_ps(x_sums, bias, _mm512_fmadd_ps(scaled, scale, chains[row]));
        }
    }

    /// Returns the dot products of one group of each chain, from byte `start` of each row on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn dots(&self, start: usize) -> [__m512i; ROWS] {
        let mut rows = [[_mm512_setzero_si512(); FOURS]; ROWS];
        unroll!(IDX in [0 1 2 3 4 5 6 7] {
            if IDX < FOURS {
                let four = self.four_lines(start + IDX * FOUR_BYTES);
                for row in 0..ROWS {
                    rows[row][IDX] = four[row];
                }
            }
        });
        let mut dots = [_mm512_setzero_si512(); ROWS];
        for row in 0..ROWS {
            dots[row] = sum_groups(rows[row]);
        }
        dots
    }

    /// [`dots`](Self::dots) of the last groups; zero for missing ones.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn last_dots(&self, start: usize) -> [__m512i; ROWS] {
        let mut rows = [[_mm512_setzero_si512(); FOURS]; ROWS];
        for (idx, start) in (start..self.codes_bytes).step_by(FOUR_BYTES).enumerate() {
            let is_whole = self.codes_bytes - start >= FOUR_BYTES;
            let four = if is_whole { self.four_lines(start) } else { self.last_lines(start) };
            for (row, four) in rows.iter_mut().zip(four) {
                row[idx] = four;
            }
        }
        rows.map(|fours| sum_groups(fours))
    }

    /// Returns the word sums of the products of four lines of each row, from byte `start` on. Word `4 · q + l` is
    /// quarter `q` of line `l`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn four_lines(&self, start: usize) -> [__m512i; ROWS] {
        let planes = &self.x.planes[start / LINE_BYTES * PLANES..][..LINES * PLANES];
        let mut x = [[_mm512_setzero_si512(); PLANES]; LINES];
        for line in 0..LINES {
            for plane in 0..PLANES {
                x[line][plane] = planes[line * PLANES + plane].load_512();
            }
        }
        let mut rows = [_mm512_setzero_si512(); ROWS];
        for (row, sums) in rows.iter_mut().enumerate() {
            let start = self.codes.wrapping_add(start + row * self.codes_bytes);
            let mut dots = [_mm512_setzero_si512(); LINES];
            for line in 0..LINES {
                let start = start.wrapping_add(line * LINE_BYTES);
                prefetch::ahead::<A>(start, A::ROWS_BYTES);
                // SAFETY: each row has four lines from `start` on: whole groups of all chains in `dots`, by a check in
                // `last_dots`.
                dots[line] = multiply_line(unsafe { _mm512_loadu_si512(start.cast()) }, x[line]);
            }
            *sums = schedule_before_loads(add_within_quarters(dots));
        }
        rows
    }

    /// [`four_lines`](Self::four_lines) of the last bytes of each row, fewer than four lines. Missing bytes count as
    /// zero.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn last_lines(&self, start: usize) -> [__m512i; ROWS] {
        let mut rows = [[_mm512_setzero_si512(); LINES]; ROWS];
        let planes = self.x.planes.as_chunks::<PLANES>().0;
        let first = self.codes.wrapping_add(start);
        for (line, start) in (start..self.codes_bytes).step_by(LINE_BYTES).enumerate() {
            let x = planes[start / LINE_BYTES].each_ref().map(|plane| plane.load_512());
            let left_bytes = (self.codes_bytes - start).min(LINE_BYTES);
            let mask = u64::MAX >> (LINE_BYTES - left_bytes);
            for (row, dots) in rows.iter_mut().enumerate() {
                let start = first.wrapping_add(row * self.codes_bytes + line * LINE_BYTES);
                prefetch::ahead::<A>(start, A::ROWS_BYTES);
                // SAFETY: the mask selects bytes of the row.
                dots[line] = multiply_line(unsafe { _mm512_maskz_loadu_epi8(mask, start.cast()) }, x);
            }
        }
        rows.map(|dots| add_within_quarters(dots))
    }
}

/// Loads sixteen values from `start` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32], start: usize) -> __m512 {
    let values: &[f32; LANES] = values[start..].first_chunk().expect("whole vectors");
    // SAFETY: the load reads exactly this array of 16 `f32`.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

/// Returns `sums` through an empty `asm!` block, which keeps the compiler from moving later loads before their
/// computation. Otherwise it loads as much as it can first, and spills for want of registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn schedule_before_loads(mut sums: __m512i) -> __m512i {
    // SAFETY: the block contains only a comment.
    unsafe { asm!("/* {} */", inout(zmm_reg) sums, options(nostack, preserves_flags)) };
    sums
}

/// Multiplies a line of codes with its activations and adds the products in each word: first with the upper digits,
/// then with the lower. For codes of 4 bits, those in the lower halves of bytes come first, among digits as among
/// codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_line<const PLANES: usize>(bytes: __m512i, x: [__m512i; PLANES]) -> __m512i {
    let zero = _mm512_setzero_si512();
    if PLANES == 2 {
        let upper = _mm512_dpbusd_epi32(zero, bytes, x[0]);
        return _mm512_dpbusd_epi32(_mm512_slli_epi32::<8>(upper), bytes, x[1]);
    }
    let mask = _mm512_set1_epi8(15);
    let low = _mm512_and_si512(bytes, mask);
    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
    let upper = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, low, x[0]), high, x[1]);
    let dot = _mm512_dpbusd_epi32(_mm512_slli_epi32::<8>(upper), low, x[2]);
    _mm512_dpbusd_epi32(dot, high, x[3])
}

/// Adds the four words in each quarter of four vectors: quarter `q` of the result has the sums of that quarter of each
/// vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_within_quarters(lines: [__m512i; LINES]) -> __m512i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low, high) = (pair(lines[0], lines[1]), pair(lines[2], lines[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high))
}

/// Reduces the results of the four-line blocks of one row to one sum per group, in the order of the groups.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_groups<const FOURS: usize>(fours: [__m512i; FOURS]) -> __m512i {
    match FOURS {
        // A group is a quarter of a line: word `4 · q + l` is group `4 · l + q`.
        1 => {
            let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
            _mm512_permutexvar_epi32(order, fours[0])
        }
        // A group is half a line: word `8 · f + 4 · h + l` of the sum is group `8 · f + 2 · l + h`.
        2 => {
            let order = _mm512_set_epi32(15, 11, 14, 10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0);
            _mm512_permutexvar_epi32(order, add_quarters(fours[0], fours[1]))
        }
        4 => add_halves([fours[0], fours[1], fours[2], fours[3]]),
        // A group is two lines.
        _ => {
            let first = add_halves([fours[0], fours[1], fours[2], fours[3]]);
            let second = add_halves([fours[4], fours[5], fours[6], fours[7]]);
            let even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
            let odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
            _mm512_add_epi32(
                _mm512_permutex2var_epi32(first, even, second),
                _mm512_permutex2var_epi32(first, odd, second),
            )
        }
    }
}

/// Adds the quarters in each half of two vectors: the sums of the first, then of the second.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_quarters(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b))
}

/// Adds all quarters in each of four vectors: the sums of each in turn.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_halves([a, b, c, d]: [__m512i; 4]) -> __m512i {
    add_quarters(add_quarters(a, b), add_quarters(c, d))
}
