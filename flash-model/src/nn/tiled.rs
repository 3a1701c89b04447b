//! Linear layers that can be computed in tiles of rows, so that less than a layer has to be in memory.

use std::cell::RefCell;
use std::fmt::Debug;
use std::ops::Range;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp};

use crate::ModelError;
use crate::compute::{Activation, Backend, Value};
use crate::nn::layers::{self, Linear};

/// Number that the rows of a tile are a multiple of, except for the last.
const ROWS_STEP: u64 = 4;

/// A linear layer that is loaded with the layer it belongs to or, if the model is [tiled](Tiling), in tiles of rows,
/// each while it computes. Rows are computed independently of each other, so both give the same bits.
#[derive(Debug, ModuleParameters)]
pub(crate) struct TiledLinear {
    backend: Backend,
    /// The whole matrix; `None` if it is in tiles.
    #[param]
    inner: Option<Linear>,
    /// The tiles, unless the matrix is whole.
    idx: TiledIdx,
}

/// A matrix as it is loaded.
enum Form<'a> {
    Whole(&'a Linear),
    Tiles(TiledIdx),
}

/// The index of a matrix in tiles, in execution order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TiledIdx(pub(crate) usize);

/// The tiles of all matrices, which are loaded one by one.
pub(crate) trait Tiles: Debug {
    /// Calls `product` with each tile of a matrix while it is loaded, and with its range of rows; returns the outputs,
    /// concatenated along the last axis.
    ///
    /// # Errors
    /// Errors of reading the tiles, and those of `product`.
    fn concat(&mut self, matrix: TiledIdx, product: &TileProduct<'_>) -> Result<Value, ModelError>;
}

/// Computes the output of a tile.
pub(crate) type TileProduct<'a> = dyn Fn(&Linear, Range<i32>) -> Result<Value, Exception> + 'a;

impl TiledLinear {
    pub(crate) fn whole(linear: Linear) -> Self {
        Self { backend: linear.backend.clone(), inner: Some(linear), idx: TiledIdx(usize::MAX) }
    }

    /// Returns `self(x)`.
    pub(crate) fn forward(&self, x: &Value, tiles: &mut dyn Tiles) -> Result<Value, ModelError> {
        match self.form() {
            Form::Whole(whole) => Ok(whole.forward(x)?),
            Form::Tiles(matrix) => tiles.concat(matrix, &|tile, _| tile.forward(x)),
        }
    }

    /// Returns `residual + self(x)`.
    pub(crate) fn add(
        &self,
        residual: &Value,
        x: &Value,
        tiles: &mut dyn Tiles,
    ) -> Result<Value, ModelError> {
        match self.form() {
            Form::Whole(whole) => Ok(whole.add(residual, x)?),
            Form::Tiles(matrix) => {
                let residual = residual.array()?;
                tiles.concat(matrix, &|tile, rows| tile.add(&columns(&residual, rows)?, x))
            }
        }
    }

    fn form(&self) -> Form<'_> {
        self.inner.as_ref().map_or(Form::Tiles(self.idx), Form::Whole)
    }
}

/// Applies each of `layers` to the same `x`.
pub(crate) fn project<const N: usize>(
    layers: [&TiledLinear; N],
    x: &Value,
    tiles: &mut dyn Tiles,
) -> Result<[Value; N], ModelError> {
    let whole: Vec<&Linear> = layers.iter().filter_map(|layer| layer.inner.as_ref()).collect();
    if let Ok(whole) = whole.try_into() {
        return Ok(layers::project::<N>(whole, x)?);
    }
    let outputs = layers.iter().map(|layer| layer.forward(x, tiles)).collect::<Result<Vec<_>, _>>()?;
    Ok(outputs.try_into().expect("an output for each layer"))
}

/// Returns `activation(gate(x)) · up(x)`.
pub(crate) fn gated(
    activation: Activation,
    gate: &TiledLinear,
    up: &TiledLinear,
    x: &Value,
    tiles: &mut dyn Tiles,
) -> Result<Value, ModelError> {
    if let (Some(gate), Some(up)) = (&gate.inner, &up.inner) {
        return Ok(layers::gated(activation, gate, up, x)?);
    }
    let [gated, values] = project([gate, up], x, tiles)?;
    Ok(gate.backend.gated(activation, &gated, &values)?)
}

/// Returns `relu(up(x))²`.
pub(crate) fn squared_relu(up: &TiledLinear, x: &Value, tiles: &mut dyn Tiles) -> Result<Value, ModelError> {
    match up.form() {
        Form::Whole(whole) => Ok(layers::squared_relu(whole, x)?),
        Form::Tiles(matrix) => tiles.concat(matrix, &|tile, _| layers::squared_relu(tile, x)),
    }
}

/// Returns `columns` of the last axis.
fn columns(x: &Array, columns: Range<i32>) -> Result<Value, Exception> {
    Ok(x.try_index((Ellipsis, columns))?.into())
}

/// Limits on the size of tiles, and the matrices that were cut into tiles so far.
#[derive(Debug)]
pub(crate) struct Tiling {
    /// Largest number of rows in a tile, unless it would be smaller than [`bytes_min`](Self::bytes_min).
    rows: u64,
    /// Smallest size of a tile, unless the whole matrix is smaller.
    bytes_min: u64,
    matrices: RefCell<Vec<TiledMatrix>>,
}

/// A matrix in tiles whose weights are not loaded.
#[derive(Debug)]
pub(crate) struct TiledMatrix {
    /// Path of its tensors.
    pub path: String,
    pub n_rows: u64,
    /// The tiles with their rows, in order.
    pub tiles: Vec<(Range<u64>, Linear)>,
}

impl Tiling {
    /// Cuts matrices into tiles of at most `rows` rows, but at least `bytes_min`.
    pub(crate) fn new(rows: u64, bytes_min: u64) -> Self {
        Self { rows, bytes_min, matrices: RefCell::default() }
    }

    /// Returns the rows of each tile of a matrix of `n_rows`, of `row_bytes` each.
    pub(crate) fn ranges(&self, n_rows: u64, row_bytes: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let rows_min = self.bytes_min.div_ceil(row_bytes.max(1)).max(1);
        // Tiles are of equal length, so that as many as are large enough have at least this many rows.
        let n_tiles_max = (n_rows / rows_min).max(1);
        let rows_min = n_rows.div_ceil(n_tiles_max).next_multiple_of(ROWS_STEP);
        tile_ranges(n_rows, self.rows.max(rows_min))
    }

    /// Adds a matrix. Matrices must be added in execution order.
    pub(crate) fn add(&self, backend: &Backend, matrix: TiledMatrix) -> TiledLinear {
        let mut matrices = self.matrices.borrow_mut();
        matrices.push(matrix);
        TiledLinear { backend: backend.clone(), inner: None, idx: TiledIdx(matrices.len() - 1) }
    }

    /// Takes all matrices.
    pub(crate) fn take_matrices(&self) -> Vec<TiledMatrix> {
        self.matrices.take()
    }
}

/// Cuts `n_rows` into ranges of equal length: at most `rows` rounded down to a multiple of
/// [`ROWS_STEP`], but at least that.
pub(crate) fn tile_ranges(n_rows: u64, rows: u64) -> impl Iterator<Item = Range<u64>> {
    let max_rows = (rows / ROWS_STEP).max(1) * ROWS_STEP;
    let n_tiles = n_rows.div_ceil(max_rows).max(1);
    let tile_rows = n_rows.div_ceil(n_tiles).next_multiple_of(ROWS_STEP).max(1);
    (0..n_rows).step_by(tile_rows as usize).map(move |start| start..(start + tile_rows).min(n_rows))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tiles_cover_all_rows_in_order_and_are_no_larger_than_asked(n_rows in 1u64..10_000, rows in 1u64..5_000) {
            let mut end = 0;
            for range in tile_ranges(n_rows, rows) {
                prop_assert_eq!(range.start, end);
                prop_assert!(range.end > range.start);
                prop_assert!(range.end - range.start <= rows.max(ROWS_STEP));
                prop_assert!(range.end == n_rows || range.end % ROWS_STEP == 0);
                end = range.end;
            }
            prop_assert_eq!(end, n_rows);
        }
    }

    #[test]
    fn tiles_are_not_smaller_than_is_worth_a_read() {
        let lengths = |rows, bytes_min| -> Vec<u64> {
            let ranges = Tiling::new(rows, bytes_min).ranges(576, 324);
            ranges.map(|range| range.end - range.start).collect()
        };
        assert_eq!(lengths(64, 0), [64; 9]);
        assert_eq!(lengths(64, 64 << 10), [288; 2]);
        assert_eq!(lengths(64, 1 << 20), [576]);
        assert_eq!(lengths(400, 64 << 10), [288; 2]);
    }

    #[test]
    fn tiles_are_of_equal_length() {
        let lengths: Vec<u64> = tile_ranges(2048 + 64, 1024).map(|range| range.end - range.start).collect();
        assert_eq!(lengths, [704; 3]);
    }
}
