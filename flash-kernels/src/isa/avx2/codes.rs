//! Few rows of activations: dot products straight from the stored codes.
//!
//! A vector holds a word of codes of each of 8 rows, so sums need no rearrangement: activations are broadcast, and each
//! lane is a row of weights. Codes are multiplied in one of two ways, with the same exact sums:
//! - as 16-bit numbers, in pairs, with one sum per row of activations;
//! - codes of 4 bits also byte by byte, with two signed 8-bit digits of the activations. That takes half as many
//!   instructions to extract the codes, but two sums.

#![expect(unsafe_code, reason = "loads through pointers: bounds checks in the inner loop would be too slow")]

use std::arch::x86_64::*;
use std::sync::Arc;

use super::dots::{self, Each};
use super::vectors::VECTORS;
use super::words::{HALF_ROWS, HALVES, HalfWords};
use crate::activations::{FixedVector, LINE_BYTES, Plane, digits_of, zero_planes};
use crate::affine_tile::AffineTile;
use crate::chains::CHAINS;
use crate::isa::avxvnni;
use crate::isa::x86::HalfFloats;
use crate::prefetch::Prefetch;
use crate::tile::{CodeBits, Lanes, Layout};

/// Returns the distance at which strips are prefetched. `docs/performance-log.md` has the measurements.
const fn ahead_bytes(policy: Prefetch) -> usize {
    match policy {
        Prefetch::Near | Prefetch::NonTemporal => 4 << 10,
        Prefetch::Far => 8 << 10,
    }
}

/// [`Kernels::multiply_codes`](crate::isa::Kernels::multiply_codes).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    multiply_with::<false>(tile, x, acc);
}

/// [`multiply`] with the dot products of AVX-VNNI, or without.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::isa) fn multiply_with<const VNNI: bool>(
    tile: &AffineTile<'_>,
    x: &[Arc<FixedVector>],
    acc: &mut [Lanes],
) {
    match (tile.codes.bits, tile.codes.group) {
        (CodeBits::Four, 32) => multiply_steps::<4, 32, VNNI>(tile, x, acc),
        (CodeBits::Four, 64) => multiply_steps::<4, 64, VNNI>(tile, x, acc),
        (CodeBits::Four, _) => multiply_steps::<4, 128, VNNI>(tile, x, acc),
        (CodeBits::Eight, 32) => multiply_steps::<8, 32, VNNI>(tile, x, acc),
        (CodeBits::Eight, 64) => multiply_steps::<8, 64, VNNI>(tile, x, acc),
        (CodeBits::Eight, _) => multiply_steps::<8, 128, VNNI>(tile, x, acc),
    }
}

/// Multiplies four rows of activations at a time, whose sums and operands fill the registers, then two and one.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_steps<const BITS: usize, const GROUP: usize, const VNNI: bool>(
    tile: &AffineTile<'_>,
    x: &[Arc<FixedVector>],
    acc: &mut [Lanes],
) {
    let ((fours, x), (acc_fours, acc)) = (x.as_chunks(), acc.as_chunks_mut());
    for ([a, b, c, d], acc) in fours.iter().zip(acc_fours) {
        multiply_tile::<BITS, GROUP, 4, VNNI>(tile, [a, b, c, d], acc);
    }
    let ((pairs, x), (acc_pairs, acc)) = (x.as_chunks(), acc.as_chunks_mut());
    for ([a, b], acc) in pairs.iter().zip(acc_pairs) {
        multiply_tile::<BITS, GROUP, 2, VNNI>(tile, [a, b], acc);
    }
    for (x, acc) in x.iter().zip(acc) {
        multiply_tile::<BITS, GROUP, 1, VNNI>(tile, [x], std::array::from_mut(acc));
    }
}

/// Adds to `acc` the dot products of `M` rows of activations with the rows of the tile, half of the tile at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_tile<const BITS: usize, const GROUP: usize, const M: usize, const VNNI: bool>(
    tile: &AffineTile<'_>,
    x: [&FixedVector; M],
    acc: &mut [Lanes; M],
) {
    let group_words = GROUP * BITS / 32;
    let step_words = group_words.max(8);
    let (n_groups, row_bytes) = (tile.n_groups(), tile.codes.rows.row_bytes());
    assert!(tile.codes.group == GROUP && row_bytes == n_groups * GROUP * BITS / 8);
    let word_x_bytes = 64 / BITS;
    // Two sums for each of four rows would not fit the registers.
    let by_digits = BITS == 4 && M < 4;
    let mut x_bytes = [std::ptr::null(); M];
    for row in 0..M {
        let (digits, words) = x[row].planes.split_at(digit_planes(BITS, x[row].planes.len()));
        let planes = if by_digits { digits } else { words };
        assert!(size_of_val(planes) >= n_groups * group_words * word_x_bytes);
        assert!(x[row].scales.len().min(x[row].sums.len()) >= n_groups);
        x_bytes[row] = planes.as_ptr().cast::<u8>();
    }
    let strip_bytes = HALF_ROWS * row_bytes;
    let ahead_bytes = match tile.codes.layout {
        Layout::Rows => strip_bytes,
        Layout::Strips(_) => ahead_bytes(tile.prefetch),
    };

    let mut buffer = None;
    for half in 0..HALVES {
        let words = HalfWords::new(tile.codes, half);
        let (mut scales, mut biases) =
            (HalfFloats::new(tile.scales, half), HalfFloats::new(tile.biases, half));
        let ahead = tile.codes.rows.bytes().as_ptr().wrapping_add(half * strip_bytes + ahead_bytes);
        let mut chains = [[[_mm256_setzero_ps(); VECTORS]; M]; CHAINS];
        // One group of each chain at a time.
        for start in (0..n_groups).step_by(CHAINS) {
            let groups = start..n_groups.min(start + CHAINS);
            scales.decode_256(groups.clone());
            biases.decode_256(groups.clone());
            let end_word = groups.end * group_words;
            for word in (groups.start * group_words..end_word).step_by(step_words) {
                let lines = words.lines(word..end_word.min(word + step_words), &mut buffer);
                for (idx, lines) in lines.chunks_exact(group_words).enumerate() {
                    let group_word = word + idx * group_words;
                    let mut planes = [std::ptr::null(); M];
                    for row in 0..M {
                        planes[row] = x_bytes[row].wrapping_add(group_word * word_x_bytes);
                    }
                    let ahead = ahead.wrapping_add(group_word * LINE_BYTES);
                    // SAFETY: the activations of these words are in the planes, by the assertion on their number, and
                    // only the kernels of AVX-VNNI are compiled with its dot products.
                    let dots = unsafe {
                        match (VNNI, by_digits) {
                            (false, true) => dots::by_digits(lines, planes, ahead),
                            (false, false) => dots::by_pairs::<BITS, M>(lines, planes, ahead),
                            (true, true) => avxvnni::by_digits(lines, planes, ahead),
                            (true, false) => avxvnni::by_pairs::<BITS, M>(lines, planes, ahead),
                        }
                    };
                    let group_idx = group_word / group_words;
                    let floats = (scales.load_256(group_idx), biases.load_256(group_idx));
                    add(dots, x, group_idx, floats, &mut chains[group_idx - start]);
                }
            }
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            for vector in 0..VECTORS {
                let mut sum = acc.load_256(VECTORS * half + vector);
                for chain in &chains {
                    sum = _mm256_add_ps(sum, chain[row][vector]);
                }
                acc.store_256(VECTORS * half + vector, sum);
            }
        }
    }
}

/// Adds a group to its chain.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add<const M: usize>(
    dots: Each<__m256i, M>,
    x: [&FixedVector; M],
    group_idx: usize,
    (scales, biases): ([__m256; VECTORS], [__m256; VECTORS]),
    chains: &mut Each<__m256, M>,
) {
    for row in 0..M {
        let (x_scale, x_sum) =
            (_mm256_set1_ps(x[row].scales[group_idx]), _mm256_set1_ps(x[row].sums[group_idx]));
        for vector in 0..VECTORS {
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[row][vector]), x_scale);
            let sum = _mm256_fmadd_ps(scaled, scales[vector], chains[row][vector]);
            chains[row][vector] = _mm256_fmadd_ps(x_sum, biases[vector], sum);
        }
    }
}

/// Returns how many of `n_planes` planes hold digits.
const fn digit_planes(bits: usize, n_planes: usize) -> usize {
    if bits == 4 { n_planes / 2 } else { 0 }
}

/// Arranges whole lines of codes as [`multiply`] broadcasts them, word by word of the weights: for codes of 4 bits the
/// upper digits of the activations of the lower nibbles, their lower digits, and the same for the upper nibbles; then,
/// for all codes, the pairs of activations that are multiplied with what each shift leaves in the halves of a word.
#[target_feature(enable = "avx2")]
pub(super) fn arrange(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    let mut pairs = zero_planes(codes);
    let pairs_bytes = bytemuck::cast_slice_mut::<Plane, u8>(&mut pairs);
    let (word_codes, n_pairs) = (bits.word_codes(), bits.word_codes() / 2);
    for (bytes, codes) in pairs_bytes.chunks_exact_mut(2 * word_codes).zip(codes.chunks_exact(word_codes)) {
        for (idx, pair) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *pair = bytemuck::cast([codes[idx], codes[idx + n_pairs]]);
        }
    }
    if bits == CodeBits::Eight {
        return pairs;
    }
    let mut planes = zero_planes(codes);
    let digits = bytemuck::cast_slice_mut::<Plane, u8>(&mut planes);
    for (bytes, codes) in digits.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<8>().0) {
        for (idx, code) in codes.iter().enumerate() {
            let ((upper, lower), at) = (digits_of(*code), 8 * (idx % 2) + idx / 2);
            (bytes[at], bytes[4 + at]) = (upper, lower);
        }
    }
    planes.append(&mut pairs);
    planes
}
