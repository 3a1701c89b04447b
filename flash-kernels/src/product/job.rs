//! Jobs: outputs split into parts for the threads.

use smallvec::SmallVec;

use super::input::Inputs;
use super::sums::{Product, Task};
use super::{BLOCK_TILES, Projection};
use crate::elementwise::Gate;
use crate::error::KernelError;
use crate::pool::{ColumnSplit, INLINE_MATRICES, Pool};
use crate::tile::TILE;

/// Rows of activations per pass over the weights. Unpacking is then a small part of the work, and the activations (8
/// MiB for `k` = 8192) stay in a cache.
pub(super) const ROWS_BLOCK: usize = 512;

/// Maximum bytes of weights per part of a product with few rows. Large next to the prefetch distance, since prefetches
/// at the end of a thread's share fetch another thread's weights; small next to a matrix, since threads wait at the end
/// for the last part.
const PART_BYTES: usize = 1 << 20;

/// Target number of parts per thread, for large matrices.
const PARTS_PER_THREAD: usize = 16;

/// Multiply-adds below which one thread works alone: they take about as long as waking another thread.
const PARALLEL_MIN: usize = 64 << 10;

/// Computation of one output matrix `y`.
#[derive(Clone, Copy)]
pub(super) enum Output<'a> {
    Product(Projection<'a>),
    /// `[m, n]`, plus a product.
    Sum(&'a [f32], Projection<'a>),
    /// Gate and up projections.
    Gated(Gate, [Projection<'a>; 2]),
}

impl<'a> Output<'a> {
    fn projections(&self) -> &[Projection<'a>] {
        match self {
            Self::Product(projection) | Self::Sum(_, projection) => std::slice::from_ref(projection),
            Self::Gated(_, both) => both,
        }
    }

    /// Columns of `y`.
    fn n(&self) -> usize {
        self.projections()[0].w.n()
    }

    /// Returns the task for `m` rows of activations from `first_row` on, which `inputs` holds.
    fn task(&'a self, first_row: usize, m: usize, inputs: &'a Inputs<'a>) -> Task<'a> {
        match self {
            Self::Product(projection) => Task::Product(Product::new(projection, m, inputs)),
            Self::Sum(onto, projection) => {
                let (n, product) = (self.n(), Product::new(projection, m, inputs));
                Task::Sum { onto: &onto[first_row * n..], n, product }
            }
            Self::Gated(kind, [gate, up]) => {
                let [gate, up] = [gate, up].map(|projection| Product::new(projection, m, inputs));
                Task::Gated { kind: *kind, gate, up }
            }
        }
    }

    /// Bytes of all weights.
    fn size_bytes(&self) -> usize {
        self.projections().iter().map(|projection| projection.w.size_bytes()).sum()
    }
}

/// Computes the outputs `ys` for the rows `x`.
pub(super) fn compute(
    pool: &Pool,
    x: &[f32],
    outputs: &[Output<'_>],
    ys: &mut [&mut [f32]],
) -> Result<(), KernelError> {
    assert_eq!(outputs.len(), ys.len(), "one output slice per product");
    let rows = outputs.iter().zip(&*ys).find_map(|(output, y)| y.len().checked_div(output.n()));
    let m = rows.unwrap_or(0);
    for (output, y) in outputs.iter().zip(&*ys) {
        output.projections().iter().try_for_each(|projection| projection.check(m, x, y))?;
    }
    // Without rows of weights, x is not read.
    let Some(wide) = outputs.iter().flat_map(Output::projections).find(|projection| projection.w.n() > 0)
    else {
        return Ok(());
    };
    let k = wide.w.k();
    for start in (0..m).step_by(ROWS_BLOCK) {
        let rows = start..m.min(start + ROWS_BLOCK);
        let x = &x[rows.start * k..rows.end * k];
        let ys = outputs.iter().zip(&mut *ys).map(|(output, y)| {
            let n = output.n();
            &mut y[rows.start * n..rows.end * n]
        });
        block(pool, rows.start, x, k, outputs, ys.collect());
    }
    Ok(())
}

/// Computes a block of rows, from `first_row` on, in one pass over the weights.
fn block(
    pool: &Pool,
    first_row: usize,
    x: &[f32],
    k: usize,
    outputs: &[Output<'_>],
    ys: SmallVec<[&mut [f32]; INLINE_MATRICES]>,
) {
    let m = ys.iter().zip(outputs).find_map(|(y, output)| y.len().checked_div(output.n())).unwrap_or(0);
    let weights = outputs.iter().flat_map(Output::projections).map(|projection| &projection.w.storage);
    let inputs = Inputs::new(pool, x, k, weights);
    let tasks: SmallVec<[_; INLINE_MATRICES]> =
        outputs.iter().map(|output| output.task(first_row, m, &inputs)).collect();
    let job_bytes = outputs.iter().map(Output::size_bytes).sum();
    let mut splits: SmallVec<[_; INLINE_MATRICES]> = ys
        .into_iter()
        .zip(outputs)
        .map(|(matrix, output)| {
            let width = part_width(pool, [output.n(), k], m, output.size_bytes(), job_bytes);
            ColumnSplit { matrix, row_len: output.n(), width }
        })
        .collect();
    pool.for_matrices(&mut splits, |idx, part| tasks[idx].compute(pool.kernels(), part));
}

/// Returns the columns of `y` per part, a multiple of a tile. The weights of this output, `[n, k]`, have `size_bytes`;
/// those of all outputs of the job have `job_bytes`.
pub(super) fn part_width(
    pool: &Pool,
    [n, k]: [usize; 2],
    m: usize,
    size_bytes: usize,
    job_bytes: usize,
) -> usize {
    let size_bytes = size_bytes.max(1);
    // As if all outputs of the job had this size.
    let n_outputs = job_bytes.div_ceil(size_bytes).max(1);
    let size = n.saturating_mul(k).saturating_mul(m).saturating_mul(n_outputs);
    if pool.n_threads() == 1 || size < PARALLEL_MIN {
        return n.max(1);
    }
    let by_bytes =
        if m <= pool.kernels().rows_direct { PART_BYTES * n / size_bytes } else { BLOCK_TILES * TILE };
    let by_threads = n.saturating_mul(n_outputs) / (pool.n_threads() * PARTS_PER_THREAD);
    by_bytes.min(by_threads).min(n).next_multiple_of(TILE).max(TILE)
}
