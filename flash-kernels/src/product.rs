//! The product of activations and stored weights: cutting it into parts, tiles and panels.

mod gather;
mod mxfp8;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use crate::activations::{Exception, FixedRows, FixedVector, ROW_STEP};
use crate::affine_tile::AffineTile;
use crate::error::{KernelError, check_len};
use crate::isa::{FloatInput, Kernels, Sums};
use crate::matrix::{AffineStorage, Floats, Matrix, Storage};
use crate::pool::{Columns, Pool};
use crate::tile::{CodePanel, FLOAT_PANEL_K, FloatRows, GroupLanes, Lanes, PANEL_K, Rows, TILE};

pub use gather::gather_matmul;

/// Rows of activations up to which weights are multiplied as they are stored. Beyond, unpacking a panel first
/// is cheaper than unpacking it again for every few rows.
pub(crate) const ROWS_DIRECT: usize = 4;

/// Rows of activations that pass over the weights together. Unpacking is then a small part of the work, and the
/// activations (8 MiB for `k` = 8192) stay in a cache.
const ROWS_BLOCK: usize = 512;

/// Bytes of weights in a part of a product with few rows: some 50 µs of reading. The first rows of a part are not fetched
/// ahead, and what is fetched behind its last ones is another thread's, so parts are large next to what is fetched ahead;
/// and small next to a matrix, so that a thread that was interrupted does not keep the others waiting long.
const PART_BYTES: usize = 1 << 20;

/// Tiles of a block: the activations of a panel, up to [`ROWS_BLOCK`] · [`PANEL_K`] of them, come from the last-level
/// cache for the first tile and from the next for the others.
const BLOCK_TILES: usize = 4;

/// Parts each thread should find, where the matrix is large enough.
const PARTS_PER_THREAD: usize = 4;

/// Multiplications for which one thread takes about as long as waking another.
const PARALLEL_MIN: usize = 64 << 10;

/// Computes `y = x · Wᵀ + bias`.
///
/// `x`: `[m, k]`, `w`: `[n, k]`, `bias`: `[n]`, `y`: `[m, n]`, all row-major; `m` is `y.len() / n`, and may be 0.
///
/// Each element of `y` is computed in one order, whatever `m` and the number of threads; instruction sets differ
/// in floating-point formats only. For `float32` sums of the products in exact arithmetic:
/// - affine weights: activations are rounded to multiples of 2⁻¹⁵ of the greatest in their group; what the
///   codes and they contribute is exact for each group, and groups are added in `f32`;
/// - mxfp4 weights: the same, for they are affine as well: codes `2 · value + 12`, half the scale, and a bias of −12
///   times that;
/// - floating-point and mxfp8 weights: products are added in `f32`, from the first column to the last.
///
/// NaN and infinity propagate as IEEE 754 says for the sum of products. With mxfp4 weights, a group with a scale of 2¹²⁵
/// or more, where products of code and scale leave the range of `f32`, makes the elements of its row infinite or NaN.
///
/// # Errors
/// [`KernelError::SliceLen`] if `x`, `bias` or `y` do not fit the matrix.
///
/// # Panics
/// If called from within a job of the same pool, it never returns; else never.
pub fn matmul(
    pool: &Pool,
    x: &[f32],
    w: &Matrix<'_>,
    bias: Option<Floats<'_>>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    let (n, k) = (w.n(), w.k());
    let m = y.len().checked_div(n).unwrap_or(0);
    check_len("y", size_of::<f32>() * m * n, size_of_val(y))?;
    if n > 0 {
        check_len("x", size_of::<f32>() * m * k, size_of_val(x))?;
    }
    if let Some(bias) = bias {
        check_len("bias", n * bias.float.size_bytes(), bias.bytes.len())?;
    }
    if m == 0 {
        return Ok(());
    }
    if k == 0 {
        y.chunks_exact_mut(n).for_each(|y| finish(y, 0, None, bias));
        return Ok(());
    }
    for (x, y) in x.chunks(ROWS_BLOCK * k).zip(y.chunks_mut(ROWS_BLOCK * n)) {
        let product = Product { kernels: pool.kernels(), k, bias };
        let width = part_width(pool, w, y.len() / n, 1);
        match w.storage {
            Storage::Affine(affine) => {
                let x = FixedInput::new(pool, x, k, &affine);
                pool.for_columns(y, n, width, |part| product.affine(&affine, &x, part));
            }
            Storage::Float(floats) => {
                let x = FloatInput { values: x, k };
                pool.for_columns(y, n, width, |part| product.float(floats, x, part));
            }
            Storage::Mxfp8(mxfp8) => {
                let x = FloatInput { values: x, k };
                pool.for_columns(y, n, width, |part| product.mxfp8(mxfp8, x, part));
            }
        }
    }
    Ok(())
}

/// Columns of `y` in each part: whole tiles. `n_products` of this size are computed in one job.
fn part_width(pool: &Pool, w: &Matrix<'_>, m: usize, n_products: usize) -> usize {
    let (n, k) = (w.n(), w.k());
    let size = n.saturating_mul(k).saturating_mul(m).saturating_mul(n_products);
    if pool.n_threads() == 1 || size < PARALLEL_MIN {
        return n;
    }
    let by_bytes = if m <= ROWS_DIRECT { PART_BYTES * n / w.size_bytes().max(1) } else { BLOCK_TILES * TILE };
    let by_threads = n.saturating_mul(n_products) / (pool.n_threads() * PARTS_PER_THREAD);
    by_bytes.min(by_threads).min(n).next_multiple_of(TILE).max(TILE)
}

/// Writes the results of one row for the columns from `column_start` on, with the bias.
fn finish(out: &mut [f32], column_start: usize, acc: Option<&Lanes>, bias: Option<Floats<'_>>) {
    match acc {
        Some(acc) => out.copy_from_slice(&acc.0[..out.len()]),
        None => out.fill(0.0),
    }
    if let Some(bias) = bias {
        for (idx, value) in out.iter_mut().enumerate() {
            *value += bias.float.get(bias.bytes, column_start + idx);
        }
    }
}

/// Activations for affine weights.
enum FixedInput {
    /// Up to [`ROWS_DIRECT`].
    Few(Vec<Arc<FixedVector>>),
    Many(FixedRows),
}

impl FixedInput {
    fn new(pool: &Pool, x: &[f32], k: usize, w: &AffineStorage<'_>) -> Self {
        let bits = w.code_bits();
        if x.len() <= ROWS_DIRECT * k {
            let rows = x.chunks_exact(k);
            Self::Few(rows.map(|x| Arc::new(FixedVector::new(pool.kernels(), x, w.group, bits))).collect())
        } else {
            Self::Many(FixedRows::new(pool, x, k, w.group, bits))
        }
    }

    fn m(&self) -> usize {
        match self {
            Self::Few(rows) => rows.len(),
            Self::Many(rows) => rows.m,
        }
    }

    fn exceptions(&self) -> impl Iterator<Item = Exception> {
        let (few, many) = match self {
            Self::Few(rows) => (rows.as_slice(), &[][..]),
            Self::Many(rows) => (&[][..], rows.exceptions.as_slice()),
        };
        let of_row = |(row_idx, row): (usize, &Arc<FixedVector>)| {
            let found = row.exceptions.clone();
            found.into_iter().map(move |exception| Exception { row_idx, ..exception })
        };
        few.iter().enumerate().flat_map(of_row).chain(many.iter().copied())
    }
}

/// What all parts of a product share.
#[derive(Clone, Copy)]
struct Product<'a> {
    kernels: &'static Kernels,
    k: usize,
    bias: Option<Floats<'a>>,
}

/// Memory that a thread keeps between products.
#[derive(Default)]
struct Scratch {
    acc: Vec<Lanes>,
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

impl Product<'_> {
    fn affine(&self, w: &AffineStorage<'_>, x: &FixedInput, part: Columns<'_>) {
        self.for_blocks(part, x.m(), |columns, scratch| {
            let Scratch { acc, chains, panel, scales, widened, spare, .. } = scratch;
            let tiles = AffineTile::of(self.kernels, w, self.k, columns, widened, spare);
            let acc_len = acc.len() / tiles.len();
            let accs = acc.chunks_exact_mut(acc_len);
            match x {
                FixedInput::Few(x) => {
                    for (tile, acc) in tiles.iter().zip(accs) {
                        for (x, acc) in x.iter().zip(acc) {
                            (self.kernels.multiply_codes)(tile, x, acc);
                        }
                    }
                }
                FixedInput::Many(x) => {
                    for (tile, scales) in tiles.iter().zip(&mut *scales) {
                        scales.decode(self.kernels, tile);
                    }
                    chains.resize(tiles.len() * acc_len, Lanes::ZERO);
                    let mut sums: Vec<_> = chains.chunks_exact_mut(acc_len).zip(accs).collect();
                    let step = PANEL_K / w.group;
                    for start in (0..x.links.len()).step_by(step) {
                        let links = start..x.links.len().min(start + step);
                        for (tile, (scales, (chain, acc))) in tiles.iter().zip(scales.iter().zip(&mut sums)) {
                            (self.kernels.unpack_codes)(tile.codes, &x.links[links.clone()], panel);
                            let sums = Sums { chain, acc };
                            (self.kernels.multiply_panel)(panel, links.clone(), scales, x, sums);
                        }
                    }
                }
            }
            for exception in x.exceptions() {
                for (tile, acc) in tiles.iter().zip(acc.chunks_exact_mut(acc_len)) {
                    tile.add_exception(&exception, &mut acc[exception.row_idx]);
                }
            }
        });
    }

    fn float(&self, w: Floats<'_>, x: FloatInput<'_>, part: Columns<'_>) {
        let m = x.values.len() / self.k;
        self.for_blocks(part, m, |columns, Scratch { acc, floats, spare: [spare, ..], .. }| {
            let row_bytes = self.k * w.float.size_bytes();
            let tiles = Rows::tiles(w.bytes, row_bytes, columns, spare)
                .map(|rows| FloatRows { rows, float: w.float });
            let tiles: Vec<_> = tiles.collect();
            let acc_len = acc.len() / tiles.len();
            let mut accs: Vec<_> = acc.chunks_exact_mut(acc_len).collect();
            if m <= ROWS_DIRECT {
                for (tile, acc) in tiles.iter().zip(accs) {
                    for (x, acc) in x.values.chunks_exact(self.k).zip(acc) {
                        (self.kernels.multiply_floats)(*tile, x, acc);
                    }
                }
                return;
            }
            for start in (0..self.k).step_by(FLOAT_PANEL_K) {
                let columns = start..self.k.min(start + FLOAT_PANEL_K);
                floats.resize(columns.len(), Lanes::ZERO);
                for (tile, acc) in tiles.iter().zip(&mut accs) {
                    (self.kernels.decode)(*tile, columns.clone(), floats);
                    (self.kernels.multiply_lanes)(floats, start, x, &mut acc[..m]);
                }
            }
        });
    }

    /// Calls `block` for each range of columns that is computed together, with zeros in `acc` for `m` rows of each of
    /// its tiles, and writes what it leaves there.
    fn for_blocks(&self, mut part: Columns<'_>, m: usize, block: impl Fn(Range<usize>, &mut Scratch)) {
        let width = if m <= ROWS_DIRECT { TILE } else { BLOCK_TILES * TILE };
        let m_stepped = m.next_multiple_of(ROW_STEP);
        SCRATCH.with_borrow_mut(|scratch| {
            let columns = part.range();
            for start in columns.clone().step_by(width) {
                let range = start..columns.end.min(start + width);
                scratch.acc.clear();
                scratch.acc.resize(m_stepped * range.len().div_ceil(TILE), Lanes::ZERO);
                block(range.clone(), scratch);
                for row_idx in 0..m {
                    let out = &mut part.row_mut(row_idx)[start - columns.start..][..range.len()];
                    let accs = scratch.acc[row_idx..].iter().step_by(m_stepped);
                    for (idx, (out, acc)) in out.chunks_mut(TILE).zip(accs).enumerate() {
                        finish(out, start + idx * TILE, Some(acc), self.bias);
                    }
                }
            }
        });
    }
}
