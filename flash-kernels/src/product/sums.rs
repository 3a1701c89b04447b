//! Computes the columns of a part: sums of products, then the epilogue (bias, residual or gate).

mod decoded;

use std::cell::RefCell;
use std::ops::Range;

use smallvec::SmallVec;

use super::input::{FixedFormat, FixedInput, Input, Inputs};
use super::{BLOCK_TILES, Projection, ROWS_DIRECT};
use crate::activations::ROW_STEP;
use crate::affine_tile::AffineTile;
use crate::elementwise::Gate;
use crate::isa::{FloatInput, Kernels, Sums};
use crate::matrix::{AffineStorage, Floats, Storage};
use crate::pool::Columns;
use crate::tile::{CodePanel, FLOAT_PANEL_K, FloatRows, GroupLanes, Lanes, PANEL_K, Rows, TILE};

/// Tiles per block when weights are multiplied as stored: enough to make the overhead of a block small.
const BLOCK_TILES_DIRECT: usize = 8;

/// Computation of columns of one output matrix.
pub(super) enum Task<'a> {
    Product(Product<'a>),
    /// A product added to `onto`, which has rows of `n`.
    Sum {
        onto: &'a [f32],
        n: usize,
        product: Product<'a>,
    },
    Gated {
        kind: Gate,
        gate: Product<'a>,
        up: Product<'a>,
    },
}

/// A product with prepared activations.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    m: usize,
    k: usize,
    w: &'a Storage<'a>,
    x: Input<'a>,
    bias: Option<Floats<'a>>,
}

/// Buffers that a thread reuses between products.
#[derive(Default)]
struct Scratch {
    /// `[tiles, rows]`: sums of a block.
    acc: Vec<Lanes>,
    /// Sums of the gate projection.
    gate: Vec<Lanes>,
    /// One row of a block: gate and up values.
    gated_row: [Vec<f32>; 2],
    chains: Vec<Lanes>,
    panel: CodePanel,
    /// One for each tile of a block.
    scales: [GroupLanes; BLOCK_TILES],
    floats: Vec<Lanes>,
    widened: [Vec<u8>; 3],
    spare: [Vec<u8>; 3],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Task<'_> {
    /// Computes the columns of `part`.
    pub(super) fn compute(&self, kernels: &Kernels, mut part: Columns<'_>) {
        let (Self::Product(last) | Self::Sum { product: last, .. } | Self::Gated { up: last, .. }) = self;
        let tiles = match self {
            Self::Product(product) | Self::Sum { product, .. } => product.block_tiles(),
            Self::Gated { gate, up, .. } => gate.block_tiles().min(up.block_tiles()),
        };
        let width = tiles * TILE;
        SCRATCH.with_borrow_mut(|scratch| {
            let columns = part.range();
            for start in columns.clone().step_by(width) {
                let range = start..columns.end.min(start + width);
                if let Self::Gated { gate, .. } = self {
                    gate.sum(kernels, range.clone(), scratch);
                    std::mem::swap(&mut scratch.acc, &mut scratch.gate);
                }
                last.sum(kernels, range.clone(), scratch);
                for row_idx in 0..last.m {
                    let out = &mut part.row_mut(row_idx)[start - columns.start..][..range.len()];
                    self.finish(kernels, scratch, row_idx, start, out);
                }
            }
        });
    }

    /// Writes one row of a block of columns, from `column_start` on.
    fn finish(
        &self,
        kernels: &Kernels,
        scratch: &mut Scratch,
        row_idx: usize,
        column_start: usize,
        out: &mut [f32],
    ) {
        match self {
            Self::Product(product) => product.write(&scratch.acc, row_idx, column_start, out),
            Self::Sum { onto, n, product } => {
                product.write(&scratch.acc, row_idx, column_start, out);
                let onto = &onto[row_idx * n..][column_start..][..out.len()];
                out.iter_mut().zip(onto).for_each(|(out, onto)| *out += onto);
            }
            Self::Gated { kind, gate, up } => {
                let Scratch { acc, gate: gate_acc, gated_row: [gates, ups], .. } = scratch;
                for (product, acc, numbers) in [(gate, gate_acc, &mut *gates), (up, acc, &mut *ups)] {
                    numbers.resize(out.len(), 0.0);
                    product.write(acc, row_idx, column_start, numbers);
                }
                // In one call: consecutive steps depend on each other, so several vectors take as long as one.
                (kernels.gate)(*kind, gates, ups, out);
            }
        }
    }
}

impl<'a> Product<'a> {
    /// Returns the product of `m` rows with a projection that `inputs` was prepared for.
    pub(super) fn new(projection: &'a Projection<'a>, m: usize, inputs: &'a Inputs<'a>) -> Self {
        let w = &projection.w.storage;
        Self::of(w, m, projection.w.k(), inputs.of(w), projection.bias)
    }

    pub(super) fn of(w: &'a Storage<'a>, m: usize, k: usize, x: Input<'a>, bias: Option<Floats<'a>>) -> Self {
        Self { m, k, w, x, bias }
    }

    /// Tiles computed together.
    fn block_tiles(&self) -> usize {
        match self.w {
            _ if !self.is_direct() => BLOCK_TILES,
            // One tile at a time, so that the widened codes stay in cache.
            Storage::Affine(w) if w.narrow().is_some() => 1,
            _ => BLOCK_TILES_DIRECT,
        }
    }

    /// Rows multiplied: one or two for each row of activations.
    fn rows(&self) -> usize {
        match self.w {
            Storage::Affine(w) => FixedFormat::of(w).rows(self.m),
            Storage::Float(_) | Storage::Decoded(_) => self.m,
        }
    }

    /// Whether weights are multiplied as stored.
    fn is_direct(&self) -> bool {
        match self.x {
            Input::Fixed(x) => matches!(x, FixedInput::Few(_)),
            Input::Float(_) => self.m <= ROWS_DIRECT,
        }
    }

    /// Sums per tile: one for each row multiplied, rounded up to [`ROW_STEP`] if there are many.
    fn acc_rows(&self) -> usize {
        let rows = self.rows();
        if self.is_direct() { rows } else { rows.next_multiple_of(ROW_STEP) }
    }

    /// Writes one row of a block of columns, from `column_start` on, from the sums in `acc`.
    fn write(&self, acc: &[Lanes], row_idx: usize, column_start: usize, out: &mut [f32]) {
        let acc_rows = self.acc_rows();
        let (tiles, rest) = out.as_chunks_mut();
        // The length is nearly always constant, which avoids a call and a loop.
        for (tile_idx, out) in tiles.iter_mut().enumerate() {
            *out = acc[tile_idx * acc_rows + row_idx].0;
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&acc[tiles.len() * acc_rows + row_idx].0[..rest.len()]);
        }
        if self.rows() > self.m {
            for (out, tile) in out.chunks_mut(TILE).zip(acc.chunks_exact(acc_rows)) {
                out.iter_mut().zip(tile[self.m + row_idx].0).for_each(|(out, rest)| *out += rest);
            }
        }
        self.add_bias(out, column_start);
    }

    fn add_bias(&self, values: &mut [f32], column_start: usize) {
        if let Some(bias) = self.bias {
            for (idx, value) in values.iter_mut().enumerate() {
                *value += bias.float.get(bias.bytes, column_start + idx);
            }
        }
    }

    /// Computes the sums of a block of `columns` into `scratch`.
    fn sum(&self, kernels: &Kernels, columns: Range<usize>, scratch: &mut Scratch) {
        scratch.acc.clear();
        scratch.acc.resize(self.acc_rows() * columns.len().div_ceil(TILE), Lanes::ZERO);
        match (self.w, self.x) {
            _ if self.k == 0 => {}
            (Storage::Affine(w), Input::Fixed(x)) => self.sum_affine(kernels, w, x, columns, scratch),
            (Storage::Float(w), Input::Float(x)) => self.sum_float(kernels, *w, x, columns, scratch),
            (Storage::Decoded(w), Input::Float(x)) => self.sum_decoded(kernels, *w, x, columns, scratch),
            _ => unreachable!("activations are prepared for the format"),
        }
    }

    fn sum_affine(
        &self,
        kernels: &Kernels,
        w: &AffineStorage<'_>,
        x: &FixedInput,
        columns: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let acc_rows = self.acc_rows();
        let Scratch { acc, chains, panel, scales, widened, spare, .. } = scratch;
        match x {
            FixedInput::Few(x) => {
                let tiles = AffineTile::of(kernels, w, self.k, columns.clone(), widened, spare);
                for (tile, acc) in tiles.zip(acc.chunks_exact_mut(acc_rows)) {
                    (kernels.multiply_codes)(&tile, x, acc);
                }
            }
            FixedInput::Many(x) => {
                let tiles = AffineTile::of(kernels, w, self.k, columns.clone(), widened, spare);
                let tiles: SmallVec<[_; BLOCK_TILES]> = tiles.collect();
                for (tile, scales) in tiles.iter().zip(&mut *scales) {
                    scales.decode(kernels, tile);
                }
                chains.resize(tiles.len() * acc_rows, Lanes::ZERO);
                let accs = acc.chunks_exact_mut(acc_rows);
                let mut sums: Vec<_> = chains.chunks_exact_mut(acc_rows).zip(accs).collect();
                let step = PANEL_K / w.group;
                for start in (0..x.links.len()).step_by(step) {
                    let links = start..x.links.len().min(start + step);
                    for (tile, (scales, (chain, acc))) in tiles.iter().zip(scales.iter().zip(&mut sums)) {
                        (kernels.unpack_codes)(tile.codes, &x.links[links.clone()], panel);
                        let sums = Sums { chain, acc };
                        (kernels.multiply_panel)(panel, links.clone(), scales, x, sums);
                    }
                }
            }
        }
        let mut exceptions = x.exceptions().peekable();
        if exceptions.peek().is_some() {
            let tiles = AffineTile::of(kernels, w, self.k, columns, widened, spare);
            let tiles: SmallVec<[_; BLOCK_TILES_DIRECT]> = tiles.collect();
            for exception in exceptions {
                for (tile, acc) in tiles.iter().zip(acc.chunks_exact_mut(acc_rows)) {
                    tile.add_exception(&exception, &mut acc[exception.row_idx]);
                }
            }
        }
    }

    fn sum_float(
        &self,
        kernels: &Kernels,
        w: Floats<'_>,
        x: FloatInput<'_>,
        columns: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let Scratch { acc, floats, spare: [spare, ..], .. } = scratch;
        let row_bytes = self.k * w.float.size_bytes();
        let tiles = Rows::tiles(w.bytes, row_bytes, columns, spare).map(|rows| FloatRows::new(rows, w.float));
        let tiles: Vec<_> = tiles.collect();
        let mut accs: Vec<_> = acc.chunks_exact_mut(self.acc_rows()).collect();
        if self.is_direct() {
            for (tile, acc) in tiles.iter().zip(accs) {
                for (x, acc) in x.values.chunks_exact(self.k).zip(acc) {
                    (kernels.multiply_floats)(*tile, x, acc);
                }
            }
            return;
        }
        for start in (0..self.k).step_by(FLOAT_PANEL_K) {
            let columns = start..self.k.min(start + FLOAT_PANEL_K);
            floats.resize(columns.len(), Lanes::ZERO);
            for (tile, acc) in tiles.iter().zip(&mut accs) {
                (kernels.decode)(*tile, columns.clone(), floats);
                (kernels.multiply_lanes)(floats.as_slice().into(), start, x, &mut acc[..self.m]);
            }
        }
    }
}
