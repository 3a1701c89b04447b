//! Many rows of activations: a panel of codes is unpacked once and multiplied with all of them.
//!
//! Products of sums ([`SUM_BLOCKS`](crate::activations::SUM_BLOCKS)) would not help: without an instruction that
//! multiplies and accumulates, they replace a multiplication and an addition by two additions, and all of them compete
//! for the same units.

use std::arch::x86_64::*;
use std::ops::Range;

use super::OCTETS;
use super::vectors::{VECTORS, load_line};
use super::words::{HALVES, HalfWords};
use crate::activations::{FixedRows, ROW_STEP, ROW_TILE, RowPairs, Terms};
use crate::chains::Link;
use crate::isa::{Sums, avxvnni};
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, GroupLanes, Lanes, TILE};

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes).
#[target_feature(enable = "avx2")]
pub(super) fn unpack(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    let (group, word_pairs) = (rows.group, rows.bits.word_codes() / 2);
    let group_words = group / rows.bits.word_codes();
    panel.pairs.resize(links.len() * group / 2, CodePairs([[0; 2]; TILE]));
    let mut buffer = None;
    for half in 0..HALVES {
        let words = HalfWords::new(rows, half);
        for (link, pairs) in links.iter().zip(panel.pairs.chunks_exact_mut(group / 2)) {
            let start = link.group_idx * group_words;
            let lines = words.lines(start..start + group_words, &mut buffer);
            for (line, pairs) in lines.iter().zip(pairs.chunks_exact_mut(word_pairs)) {
                for (vector, words) in load_line(line).into_iter().enumerate() {
                    for (idx, pair) in pairs.iter_mut().enumerate() {
                        let codes = match rows.bits {
                            CodeBits::Four => nibbles(words, idx),
                            CodeBits::Eight => bytes(words, idx),
                        };
                        pair.store_256(VECTORS * half + vector, codes);
                    }
                }
            }
        }
    }
}

/// [`Kernels::multiply_panel`](crate::isa::Kernels::multiply_panel).
#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    sums: Sums<'_>,
) {
    multiply_with::<false>(panel, links, scales, x, sums);
}

/// [`multiply`] with the dot products of AVX-VNNI, or without.
#[target_feature(enable = "avx2,fma")]
pub(in crate::isa) fn multiply_with<const VNNI: bool>(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    Sums { chain, acc }: Sums<'_>,
) {
    for (tile_idx, (chain, acc)) in chain.chunks_mut(ROW_TILE).zip(acc.chunks_mut(ROW_TILE)).enumerate() {
        for octet in (0..OCTETS).step_by(VECTORS) {
            for (link_idx, pairs) in links.clone().zip(panel.pairs.chunks_exact(x.group / 2)) {
                let at = x.tile_idx(link_idx, tile_idx);
                let link = x.links[link_idx];
                let (scales, biases) = (&scales.scales[link.group_idx], &scales.biases[link.group_idx]);
                let weights = Weights { pairs, scales, biases, octet };
                for step in (0..acc.len()).step_by(ROW_STEP) {
                    let x_pairs = x.tile_pairs(at);
                    let dots = match VNNI {
                        false => weights.dots(x_pairs, step),
                        #[expect(unsafe_code, reason = "the function requires CPU features")]
                        // SAFETY: only the kernels of AVX-VNNI are compiled with its dot products.
                        true => unsafe { avxvnni::of_panel(pairs, octet, x_pairs, step) },
                    };
                    for (row, dots) in (step..).zip(dots) {
                        weights.add(dots, x.terms[at][row], link, &mut chain[row], &mut acc[row]);
                    }
                }
            }
        }
    }
}

/// One group of [`VECTORS`] vectors of a tile's rows.
#[derive(Clone, Copy)]
struct Weights<'a> {
    pairs: &'a [CodePairs],
    scales: &'a Lanes,
    biases: &'a Lanes,
    octet: usize,
}

impl Weights<'_> {
    /// Returns the dot products with the [`ROW_STEP`] rows of activations from `row_start` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dots(self, x: &[RowPairs], row_start: usize) -> [[__m256i; VECTORS]; ROW_STEP] {
        assert!(row_start + ROW_STEP <= ROW_TILE);
        let mut dots = [[_mm256_setzero_si256(); VECTORS]; ROW_STEP];
        for (pairs, x) in self.pairs.iter().zip(x) {
            let weights = [pairs.load_256(self.octet), pairs.load_256(self.octet + 1)];
            for (row, dots) in dots.iter_mut().enumerate() {
                let x = x.splat_256(row_start + row);
                for (dot, weights) in dots.iter_mut().zip(weights) {
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(x, weights));
                }
            }
        }
        dots
    }

    /// Adds the group to its chain in one row of results, and the chain to the row's sum after its last group.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(self, dots: [__m256i; VECTORS], terms: Terms, link: Link, chain: &mut Lanes, acc: &mut Lanes) {
        for (octet, dot) in (self.octet..).zip(dots) {
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(terms.scale));
            let sum = if link.is_first { _mm256_setzero_ps() } else { chain.load_256(octet) };
            let sum = _mm256_fmadd_ps(scaled, self.scales.load_256(octet), sum);
            let sum = _mm256_fmadd_ps(_mm256_set1_ps(terms.sum), self.biases.load_256(octet), sum);
            if link.is_last {
                acc.store_256(octet, _mm256_add_ps(acc.load_256(octet), sum));
            } else {
                chain.store_256(octet, sum);
            }
        }
    }
}

/// [`pack_rows`](crate::activations::pack_rows).
#[target_feature(enable = "avx2")]
pub(super) fn pack_rows(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], cross: &mut [i32; ROW_TILE]) {
    crate::activations::pack_rows(bits, codes, pairs, cross);
}

/// Extracts the pair `idx` (0 to 3) of the 8 codes of 4 bits in each word.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(words: __m256i, idx: usize) -> __m256i {
    let mask = _mm256_set1_epi16(15);
    match idx {
        0 => _mm256_and_si256(words, mask),
        1 => _mm256_and_si256(_mm256_srli_epi16::<4>(words), mask),
        2 => _mm256_and_si256(_mm256_srli_epi16::<8>(words), mask),
        _ => _mm256_srli_epi16::<12>(words),
    }
}

/// Extracts the pair `idx` (0 or 1) of the 4 codes of 8 bits in each word.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(words: __m256i, idx: usize) -> __m256i {
    match idx {
        0 => _mm256_and_si256(words, _mm256_set1_epi16(255)),
        _ => _mm256_srli_epi16::<8>(words),
    }
}
