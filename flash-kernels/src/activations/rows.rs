use std::cell::Cell;
use std::mem::take;
use std::sync::Mutex;

use super::{Exception, Terms, exceptions};
use crate::chains::{Link, links};
use crate::isa::Kernels;
use crate::pool::Pool;
use crate::tile::{CodeBits, UNIT};

/// Blocks of four values per unit that are computed as products of sums; the last block's products are computed one by
/// one.
///
/// `(x₀ + w₁) · (x₁ + w₀) = x₀w₀ + x₁w₁ + x₀x₁ + w₀w₁`: one multiplication instead of two, if the last two terms are
/// precomputed (S. Winograd, 1968). It costs two additions; on Zen 4 three such blocks in four keep the multipliers and
/// the adders equally busy. Integers wrap, so the sum is exact all the same.
pub(crate) const SUM_BLOCKS: usize = 3;

/// Groups of row tiles per part of a conversion: with 64 values per group, 32 KiB of input.
const PART_TILES: usize = 8;

/// Rows of activations per tile: as many accumulators as an AVX-512 kernel keeps in registers.
pub(crate) const ROW_TILE: usize = 16;

/// Results are computed for a multiple of this many rows; those of missing rows are ignored.
pub(crate) const ROW_STEP: usize = 4;

/// Two codes of each of [`ROW_TILE`] rows: one cache line.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct RowPairs(pub(crate) [[i16; 2]; ROW_TILE]);

/// Fixed-point activations of many rows, for weights unpacked into panels.
#[derive(Debug)]
pub(crate) struct FixedRows {
    /// Values per group.
    pub(crate) group: usize,
    /// Code width of the weights.
    pub(crate) bits: CodeBits,
    /// Elements of `pairs` per group of a row tile.
    n_pairs: usize,
    /// The groups, in storage order.
    pub(crate) links: Vec<Link>,
    /// `[row tiles, groups, n_pairs]`, [packed](Kernels::pack_rows) by the kernels. Missing rows are zero.
    pub(crate) pairs: Vec<RowPairs>,
    /// `[row tiles, groups]`.
    pub(crate) terms: Vec<[Terms; ROW_TILE]>,
    /// `[row tiles, groups]`: see [`pack_rows`].
    pub(crate) cross: Vec<[i32; ROW_TILE]>,
    /// Unordered.
    pub(crate) exceptions: Vec<Exception>,
}

impl FixedRows {
    /// Converts `x`: `[m, k]`, where `k` is one or more whole groups.
    pub(crate) fn new(pool: &Pool, x: &[f32], k: usize, group: usize, bits: CodeBits) -> Self {
        let rows: Vec<&[f32]> = x.chunks_exact(k).collect();
        let mut all = [Self::allocate(pool.kernels(), rows.len(), k / group, group, bits)];
        convert(pool, &mut all, &[rows]);
        let [fixed] = all;
        fixed
    }

    /// Allocates `m` rows with unspecified contents, to be set by [`convert`].
    pub(crate) fn allocate(
        kernels: &Kernels,
        m: usize,
        n_groups: usize,
        group: usize,
        bits: CodeBits,
    ) -> Self {
        let n_tiles = m.div_ceil(ROW_TILE) * n_groups;
        let n_pairs = (kernels.row_pairs)(bits, group);
        let Buffers { mut pairs, mut terms, mut cross } = BUFFERS.take();
        pairs.resize(n_tiles * n_pairs, RowPairs([[0; 2]; ROW_TILE]));
        terms.resize(n_tiles, [Terms::default(); ROW_TILE]);
        cross.resize(n_tiles, [0; ROW_TILE]);
        Self { group, bits, n_pairs, links: links(n_groups), pairs, terms, cross, exceptions: Vec::new() }
    }

    /// Index of the group `link_idx` of the row tile `tile_idx` in `pairs`, `terms` and `cross`.
    #[inline]
    pub(crate) fn tile_idx(&self, link_idx: usize, tile_idx: usize) -> usize {
        tile_idx * self.links.len() + link_idx
    }

    /// Pairs of the group with this index.
    #[inline]
    pub(crate) fn tile_pairs(&self, idx: usize) -> &[RowPairs] {
        &self.pairs[idx * self.n_pairs..][..self.n_pairs]
    }
}

impl Drop for FixedRows {
    fn drop(&mut self) {
        let Self { pairs, terms, cross, .. } = self;
        BUFFERS.set(Buffers { pairs: take(pairs), terms: take(terms), cross: take(cross) });
    }
}

/// Buffers of a thread's last dropped rows, kept for reuse: the system zeroes fresh memory page by page, which takes as
/// long as the conversion.
#[derive(Default)]
struct Buffers {
    pairs: Vec<RowPairs>,
    terms: Vec<[Terms; ROW_TILE]>,
    cross: Vec<[i32; ROW_TILE]>,
}

thread_local! {
    static BUFFERS: Cell<Buffers> = Cell::default();
}

/// Converts batches of rows in one job: `rows[i]` into `batches[i]`, which is allocated for them.
pub(crate) fn convert(pool: &Pool, batches: &mut [FixedRows], rows: &[Vec<&[f32]>]) {
    let parts: Vec<Mutex<Part<'_>>> = batches
        .iter_mut()
        .zip(rows)
        .enumerate()
        .flat_map(|(batch_idx, (batch, rows))| {
            let FixedRows { group, bits, n_pairs, links, pairs, terms, cross, .. } = batch;
            let (group, bits, n_pairs, links) = (*group, *bits, *n_pairs, links.as_slice());
            let outs = pairs
                .chunks_mut(PART_TILES * n_pairs)
                .zip(terms.chunks_mut(PART_TILES).zip(cross.chunks_mut(PART_TILES)));
            outs.enumerate().map(move |(idx, (pairs, (terms, cross)))| {
                let (first, exceptions) = (PART_TILES * idx, Vec::new());
                let to = Packed { n_pairs, pairs, terms, cross };
                Mutex::new(Part { batch_idx, rows, group, bits, links, first, to, exceptions })
            })
        })
        .collect();
    pool.run(parts.len(), &|part_idx| {
        // Each part is locked once; a panic ends the loop.
        if let Ok(mut part) = parts[part_idx].lock() {
            part.convert(pool.kernels());
        }
    });
    let parts = parts.into_iter().filter_map(|part| part.into_inner().ok());
    let found: Vec<_> = parts.map(|part| (part.batch_idx, part.exceptions)).collect();
    for (batch_idx, exceptions) in found {
        batches[batch_idx].exceptions.extend(exceptions);
    }
}

/// Some groups of the row tiles of a batch: one part of the conversion job.
struct Part<'a> {
    batch_idx: usize,
    /// All rows of the batch.
    rows: &'a [&'a [f32]],
    group: usize,
    bits: CodeBits,
    links: &'a [Link],
    first: usize,
    to: Packed<'a>,
    exceptions: Vec<Exception>,
}

/// Output slices of a [`Part`].
struct Packed<'a> {
    n_pairs: usize,
    pairs: &'a mut [RowPairs],
    terms: &'a mut [[Terms; ROW_TILE]],
    cross: &'a mut [[i32; ROW_TILE]],
}

impl Part<'_> {
    fn convert(&mut self, kernels: &Kernels) {
        let (group, n_groups) = (self.group, self.links.len());
        let mut codes = vec![0; ROW_TILE * group];
        let Packed { n_pairs, pairs, terms, cross } = &mut self.to;
        let outs = pairs.chunks_exact_mut(*n_pairs).zip(terms.iter_mut().zip(&mut **cross));
        for (idx, (pairs, (terms, cross))) in (self.first..).zip(outs) {
            let (row_start, k_start) =
                (idx / n_groups * ROW_TILE, self.links[idx % n_groups].group_idx * group);
            for (at, codes) in codes.chunks_exact_mut(group).enumerate() {
                let row_idx = row_start + at;
                let Some(row) = self.rows.get(row_idx) else {
                    codes.fill(0);
                    terms[at] = Terms::default();
                    continue;
                };
                let values = &row[k_start..][..group];
                if !(kernels.quantize_group)(values, codes, &mut terms[at]) {
                    self.exceptions.extend(exceptions(row_idx, k_start, values));
                }
            }
            (kernels.pack_rows)(self.bits, &codes, pairs, cross);
        }
    }
}

/// Number of [`RowPairs`] per group in the layout of [`pack_rows`].
pub(crate) fn row_pairs(_bits: CodeBits, group: usize) -> usize {
    group / 2
}

/// Packs a group of [`ROW_TILE`] rows (`codes`: `[ROW_TILE, group]`), each unit in the order of `bits`. Sets `cross` to
/// the negated terms that the products of sums of [`SUM_BLOCKS`] blocks per unit add to a dot product.
pub(crate) fn pack_rows(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], cross: &mut [i32; ROW_TILE]) {
    let order = bits.order();
    for (row, (codes, cross)) in codes.chunks_exact(2 * pairs.len()).zip(cross).enumerate() {
        *cross = 0;
        let units = codes.as_chunks::<UNIT>().0.iter().zip(pairs.as_chunks_mut::<{ UNIT / 2 }>().0);
        for (unit, pairs) in units {
            for (idx, pair) in pairs.iter_mut().enumerate() {
                pair.0[row] = [unit[order[2 * idx]], unit[order[2 * idx + 1]]];
            }
            for [even, odd] in &pairs.as_chunks::<2>().0[..SUM_BLOCKS] {
                let ([a, b], [c, d]) = (even.0[row], odd.0[row]);
                let product = |x: i16, y: i16| i32::from(x) * i32::from(y);
                *cross = cross.wrapping_sub(product(a, c)).wrapping_sub(product(b, d));
            }
        }
    }
}
