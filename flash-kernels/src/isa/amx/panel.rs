//! Many rows of activations: a panel of codes is unpacked once, and the matrix unit multiplies it with all of them.

#![expect(unsafe_code, reason = "the matrix unit loads and stores through pointers")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::rows::step_bytes;
use super::unit::{DigitSums, Tiles};
use crate::activations::{FixedRows, ROW_TILE, Terms};
use crate::chains::Link;
use crate::isa::Sums;
use crate::isa::avx512::{HALVES, HalfWords, LANES};
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, GroupLanes, Lanes, TILE};

/// Bytes of each row of weights in a line of the panel.
const WORD_BYTES: usize = 4;

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes): the panel has four codes of each row in a line, a byte each.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn unpack(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    panel.pairs.resize(links.len() * rows.group / WORD_BYTES, CodePairs([[0; 2]; TILE]));
    let mask = _mm512_set1_epi8(15);
    for half in 0..HALVES {
        let words = HalfWords::new(rows, links, half);
        match rows.bits {
            CodeBits::Four => {
                for (block_idx, lines) in panel.pairs.chunks_mut(2 * LANES).enumerate() {
                    let words = words.block(block_idx);
                    for (word, [low, high]) in words.into_iter().zip(lines.as_chunks_mut::<2>().0) {
                        low.store_512(half, _mm512_and_si512(word, mask));
                        high.store_512(half, _mm512_and_si512(_mm512_srli_epi16::<4>(word), mask));
                    }
                }
            }
            CodeBits::Eight => {
                for (block_idx, lines) in panel.pairs.chunks_mut(LANES).enumerate() {
                    let words = words.block(block_idx);
                    for (word, line) in words.into_iter().zip(lines) {
                        line.store_512(half, word);
                    }
                }
            }
        }
    }
}

/// [`Kernels::multiply_panel`](crate::isa::Kernels::multiply_panel).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn multiply(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    Sums { chain, acc }: Sums<'_>,
) {
    assert!(links.end <= x.links.len() && panel.pairs.len() == links.len() * x.group / WORD_BYTES);
    let n_links = links.len();
    let n_blocks = n_links * chain.len().div_ceil(ROW_TILE);
    let products = Products { panel, x, links };
    let mut tiles = Tiles::new(step_bytes(x.group));
    let mut sums = [const { MaybeUninit::uninit() }; 2];
    if n_blocks > 0 {
        products.compute(&mut tiles, 0, &mut sums[0]);
    }
    // The unit multiplies a block while the one before it is scaled and added.
    for block_idx in 0..n_blocks {
        if block_idx + 1 < n_blocks {
            products.compute(&mut tiles, block_idx + 1, &mut sums[(block_idx + 1) % 2]);
        }
        // SAFETY: the sums of this block were stored when it was computed.
        let dots = unsafe { sums[block_idx % 2].assume_init_ref() };
        let (tile_idx, link_idx) = products.place(block_idx);
        let row_start = tile_idx * ROW_TILE;
        let rows = row_start..chain.len().min(row_start + ROW_TILE);
        let link = x.links[link_idx];
        let block = Block {
            dots,
            terms: &x.terms[x.tile_idx(link_idx, tile_idx)],
            link,
            half_scales: load_halves(&scales.scales[link.group_idx]),
            half_biases: load_halves(&scales.biases[link.group_idx]),
        };
        block.add(Sums { chain: &mut chain[rows.clone()], acc: &mut acc[rows] });
    }
}

/// The products of a panel with all rows of activations: blocks of 16 rows and one link, those of the same rows together.
struct Products<'a> {
    panel: &'a CodePanel,
    x: &'a FixedRows,
    links: Range<usize>,
}

impl Products<'_> {
    /// Which rows and which link a block is of.
    #[inline]
    fn place(&self, block_idx: usize) -> (usize, usize) {
        (block_idx / self.links.len(), self.links.start + block_idx % self.links.len())
    }

    #[inline]
    fn compute(&self, tiles: &mut Tiles, block_idx: usize, sums: &mut MaybeUninit<DigitSums>) {
        let (tile_idx, link_idx) = self.place(block_idx);
        let x: &[u8] = bytemuck::cast_slice(self.x.tile_pairs(self.x.tile_idx(link_idx, tile_idx)));
        let lines = self.x.group / WORD_BYTES;
        let codes: &[CodePairs] = &self.panel.pairs[(link_idx - self.links.start) * lines..][..lines];
        let step = step_bytes(self.x.group);
        tiles.clear();
        for (x, codes) in x.chunks_exact(2 * ROW_TILE * step).zip(codes.chunks_exact(step / WORD_BYTES)) {
            // SAFETY: both are of the length that a step has.
            unsafe { tiles.add(x.as_ptr(), codes.as_ptr().cast()) };
        }
        tiles.store(sums);
    }
}

/// Dot products of 16 rows with a group of each row of a tile of weights, and what they are scaled with.
struct Block<'a> {
    dots: &'a DigitSums,
    terms: &'a [Terms; ROW_TILE],
    link: Link,
    half_scales: [__m512; HALVES],
    half_biases: [__m512; HALVES],
}

impl Block<'_> {
    /// Adds to the sums of its rows, of which the last ones may be missing.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&self, Sums { chain, acc }: Sums<'_>) {
        let Link { is_first, is_last, .. } = self.link;
        for (row, (chain, acc)) in chain.iter_mut().zip(acc).take(ROW_TILE).enumerate() {
            let x_scale = _mm512_set1_ps(self.terms[row].scale);
            let x_sum = _mm512_set1_ps(self.terms[row].sum);
            for half in 0..HALVES {
                let [upper, lower] = &self.dots.0[half];
                let (upper, lower) = (load(&upper[row]), load(&lower[row]));
                let dot = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower);
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), x_scale);
                let before = if is_first { _mm512_setzero_ps() } else { chain.load_512(half) };
                let product = _mm512_fmadd_ps(scaled, self.half_scales[half], before);
                let sum = _mm512_fmadd_ps(x_sum, self.half_biases[half], product);
                if is_last {
                    acc.store_512(half, _mm512_add_ps(acc.load_512(half), sum));
                } else {
                    chain.store_512(half, sum);
                }
            }
        }
    }
}

/// Without a closure: those are not inlined into functions with target features.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_halves(lanes: &Lanes) -> [__m512; HALVES] {
    [lanes.load_512(0), lanes.load_512(1)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lanes: &[i32; LANES]) -> __m512i {
    // SAFETY: an array of 16 `i32` is what is read.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}
