//! Product of a panel of unpacked codes with all rows of activations.

#![expect(unsafe_code, reason = "the matrix unit loads and stores through pointers")]

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use bytemuck::Pod;

use super::unit::{Sums as TileSums, Tiles, WORD_BYTES};
use crate::activations::{FixedRows, ROW_STEP, ROW_TILE, Terms};
use crate::isa::Sums;
use crate::isa::avx512::HALVES;
use crate::tile::{CodePairs, CodePanel, GroupLanes, Lanes, TILE};

/// Bytes per line of the panel: four bytes along `k` of each row of a tile of weights.
pub(super) const LINE_BYTES: usize = TILE * WORD_BYTES;

/// Number format in which the unit takes digits and codes.
///
/// There are two sets of tiles for sums, so that one can be stored while products are added to the other.
pub(super) trait TileFormat: Clone {
    /// Type of the sums.
    type Number: Pod;

    /// Bytes per code in the panel.
    const CODE_BYTES: usize;

    /// Bytes along `k` per step: a group, or a row of the unit's tiles.
    const STEP_BYTES: usize;

    /// Halves of a tile of weights per block: the capacity of a set of tiles.
    const BLOCK_HALVES: usize;

    /// Adds the products of a step to the sums of the set `set`. `x`: the upper digits of 16 rows of activations, then
    /// the lower digits; `codes`: for each four bytes along `k`, those of all rows of weights.
    ///
    /// # Safety
    /// `x` must point to 32 rows of a step, and `codes` to one line of [`LINE_BYTES`] for each four bytes of a row.
    unsafe fn add(tiles: &mut Tiles, set: usize, x: *const u8, codes: *const u8);

    /// Returns the dot products of a row of activations with the half `half` of a block, each rounded once.
    ///
    /// # Safety
    /// The processor must have AVX-512 F.
    unsafe fn dots(sums: &TileSums<Self::Number>, half: usize, row: usize) -> __m512;
}

/// Number of sets of tiles for sums.
const SETS: usize = 2;

/// [`Kernels::multiply_panel`](crate::isa::Kernels::multiply_panel).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn multiply<F: TileFormat>(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    Sums { chain, acc }: Sums<'_>,
) {
    let products = Products::<F>::new(panel, x, links.clone());
    let places = Places::<F>::new(links, chain.len().div_ceil(ROW_TILE));
    let mut tiles = Tiles::new(F::STEP_BYTES);
    let mut sums = MaybeUninit::uninit();
    let mut ahead = places.clone();
    for (set, place) in ahead.by_ref().take(SETS).enumerate() {
        products.compute(&mut tiles, set, place);
    }
    for (set, Place { row_tile_idx, link_idx, half }) in (0..SETS).cycle().zip(places) {
        tiles.store(set, &mut sums);
        // Start the block after the next now, so that the unit multiplies while this block is scaled and added.
        // Starting it when it is needed would mean waiting for all of its steps.
        if let Some(place) = ahead.next() {
            products.compute(&mut tiles, set, place);
        }
        let link = x.links[link_idx];
        let block = Block::<F> {
            // SAFETY: `store` has just initialized all sums.
            sums: unsafe { sums.assume_init_ref() },
            half,
            terms: &x.terms[x.tile_idx(link_idx, row_tile_idx)],
            scales: load_halves(&scales.scales[link.group_idx]),
            biases: load_halves(&scales.biases[link.group_idx]),
        };
        let row_start = row_tile_idx * ROW_TILE;
        let rows = row_start..chain.len().min(row_start + ROW_TILE);
        let sums = Sums { chain: &mut chain[rows.clone()], acc: &mut acc[rows] };
        match (link.is_first, link.is_last) {
            (true, true) => block.add::<true, true>(sums),
            (true, false) => block.add::<true, false>(sums),
            (false, true) => block.add::<false, true>(sums),
            (false, false) => block.add::<false, false>(sums),
        }
    }
}

/// Position of a block: row tile, link, and first half of a tile of weights.
#[derive(Clone, Copy)]
struct Place {
    row_tile_idx: usize,
    link_idx: usize,
    half: usize,
}

/// Iterator over the positions of all blocks; blocks of the same row tile are consecutive.
#[derive(Clone)]
struct Places<F> {
    next: Place,
    links: Range<usize>,
    n_row_tiles: usize,
    form: PhantomData<F>,
}

impl<F: TileFormat> Places<F> {
    fn new(links: Range<usize>, n_row_tiles: usize) -> Self {
        let next = Place { row_tile_idx: 0, link_idx: links.start, half: 0 };
        let n_row_tiles = if links.is_empty() { 0 } else { n_row_tiles };
        Self { next, links, n_row_tiles, form: PhantomData }
    }
}

impl<F: TileFormat> Iterator for Places<F> {
    type Item = Place;

    #[inline]
    fn next(&mut self) -> Option<Place> {
        let Place { row_tile_idx, link_idx, half } = self.next;
        self.next = if half + F::BLOCK_HALVES < HALVES {
            Place { row_tile_idx, link_idx, half: half + F::BLOCK_HALVES }
        } else if link_idx + 1 < self.links.end {
            Place { row_tile_idx, link_idx: link_idx + 1, half: 0 }
        } else {
            Place { row_tile_idx: row_tile_idx + 1, link_idx: self.links.start, half: 0 }
        };
        (row_tile_idx < self.n_row_tiles).then_some(Place { row_tile_idx, link_idx, half })
    }
}

/// Products of a panel with all rows of activations, in blocks of 16 rows and one link.
struct Products<'a, F> {
    panel: &'a CodePanel,
    x: &'a FixedRows,
    links: Range<usize>,
    /// Lines of the panel per group.
    n_lines: usize,
    form: PhantomData<F>,
}

impl<'a, F: TileFormat> Products<'a, F> {
    fn new(panel: &'a CodePanel, x: &'a FixedRows, links: Range<usize>) -> Self {
        let n_lines = x.group * F::CODE_BYTES / WORD_BYTES;
        assert!(links.end <= x.links.len() && panel.pairs.len() == links.len() * n_lines);
        Self { panel, x, links, n_lines, form: PhantomData }
    }

    /// Starts the products of a block into the set `set`. Always inlined: arguments passed through memory would arrive
    /// too late.
    #[inline(always)]
    fn compute(&self, tiles: &mut Tiles, set: usize, Place { row_tile_idx, link_idx, half }: Place) {
        let x: &[u8] = bytemuck::cast_slice(self.x.tile_pairs(self.x.tile_idx(link_idx, row_tile_idx)));
        let codes: &[CodePairs] =
            &self.panel.pairs[(link_idx - self.links.start) * self.n_lines..][..self.n_lines];
        tiles.clear(set);
        let steps = x.chunks_exact(2 * ROW_TILE * F::STEP_BYTES);
        for (x, codes) in steps.zip(codes.chunks_exact(F::STEP_BYTES / WORD_BYTES)) {
            let codes: &[u8] = &bytemuck::cast_slice(codes)[half * LINE_BYTES / HALVES..];
            // SAFETY: `x` and `codes` have the length of a step, except that the second half of a tile starts within
            // its first line.
            unsafe { F::add(tiles, set, x.as_ptr(), codes.as_ptr()) };
        }
    }
}

/// Dot products of 16 rows with one group of each row of weights, and their scales and biases.
struct Block<'a, F: TileFormat> {
    sums: &'a TileSums<F::Number>,
    half: usize,
    terms: &'a [Terms; ROW_TILE],
    scales: [__m512; HALVES],
    biases: [__m512; HALVES],
}

impl<F: TileFormat> Block<'_, F> {
    /// Adds the scaled dot products to the sums of its rows, of which the last ones may be missing. `IS_FIRST` and
    /// `IS_LAST` tell whether the group is the first or last of its chain.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add<const IS_FIRST: bool, const IS_LAST: bool>(&self, Sums { chain, acc }: Sums<'_>) {
        let steps = chain.as_chunks_mut::<ROW_STEP>().0.iter_mut().zip(acc.as_chunks_mut::<ROW_STEP>().0);
        let terms = self.terms.as_chunks::<ROW_STEP>().0;
        // Whole steps only: a loop over single rows, whose number is unknown, would cost more bookkeeping.
        for (step_idx, ((chain, acc), terms)) in steps.zip(terms).enumerate() {
            for row in 0..ROW_STEP {
                let x_scale = _mm512_set1_ps(terms[row].scale);
                let x_sum = _mm512_set1_ps(terms[row].sum);
                for block_half in 0..F::BLOCK_HALVES {
                    let half = self.half + block_half;
                    // SAFETY: this function is compiled for processors with AVX-512 F.
                    let dots = unsafe { F::dots(self.sums, block_half, step_idx * ROW_STEP + row) };
                    let scaled = _mm512_mul_ps(dots, x_scale);
                    let before = if IS_FIRST { _mm512_setzero_ps() } else { chain[row].load_512(half) };
                    let product = _mm512_fmadd_ps(scaled, self.scales[half], before);
                    let sum = _mm512_fmadd_ps(x_sum, self.biases[half], product);
                    if IS_LAST {
                        acc[row].store_512(half, _mm512_add_ps(acc[row].load_512(half), sum));
                    } else {
                        chain[row].store_512(half, sum);
                    }
                }
            }
        }
    }
}

/// Loads both halves. A function, since closures are not inlined into functions with target features.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_halves(lanes: &Lanes) -> [__m512; HALVES] {
    [lanes.load_512(0), lanes.load_512(1)]
}
