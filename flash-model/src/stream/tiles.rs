//! Matrices in tiles: each tile is a bundle of its own, loaded when its product is computed.

use std::ops::Range;

use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::compute::arrays::to_arrays;
use crate::compute::{Backend, Value};
use crate::interrupt::Interrupt;
use crate::nn::fused::Fused;
use crate::nn::layers::Linear;
use crate::nn::tiled::{TileProduct, TiledIdx, TiledMatrix, Tiles};
use crate::stream::bundle::Bundles;
use crate::stream::proxy::{StreamingProxy, WeightOwner};
use crate::stream::residency::Residency;

/// The tiles of one matrix, each with its rows.
#[derive(Debug)]
pub(crate) struct TileProxies {
    tiles: Vec<(Range<i32>, StreamingProxy<Linear>)>,
}

impl TileProxies {
    /// Creates the tiles of a matrix, and adds their bundles to `bundles`.
    pub(crate) fn new(
        matrix: TiledMatrix,
        fused: &[Fused],
        backend: &Backend,
        checkpoint: &Checkpoint,
        bundles: &mut Bundles,
    ) -> Result<Self, ModelError> {
        let TiledMatrix { path, n_rows, tiles } = matrix;
        let tiles = tiles.into_iter().map(|(rows, tile)| {
            let place = (&path[..], rows.clone(), n_rows);
            let tile = StreamingProxy::with_rows(Box::new(tile), place, fused, checkpoint, bundles)?;
            let rows = rows.start as i32..rows.end as i32;
            Ok((rows, tile.with_strips(backend, checkpoint, bundles)))
        });
        Ok(Self { tiles: tiles.collect::<Result<_, ModelError>>()? })
    }

    /// Returns the tiles as weight owners.
    pub(crate) fn weight_owners(&mut self) -> impl Iterator<Item = &mut dyn WeightOwner> {
        self.tiles.iter_mut().map(|(_, tile)| tile as &mut dyn WeightOwner)
    }
}

/// Loads the tiles of a model's matrices through its residency.
#[derive(Debug)]
pub(crate) struct TileLoader<'a> {
    /// The tiles of each matrix, in the order of [`TiledIdx`].
    pub matrices: &'a mut [TileProxies],
    pub residency: &'a mut Residency,
    pub interrupt: &'a Interrupt,
}

impl Tiles for TileLoader<'_> {
    fn concat(&mut self, matrix: TiledIdx, product: &TileProduct<'_>) -> Result<Value, ModelError> {
        let TiledIdx(idx) = matrix;
        let mut outputs = Vec::with_capacity(self.matrices[idx].tiles.len());
        for (rows, tile) in &mut self.matrices[idx].tiles {
            self.interrupt.check()?;
            outputs.push(tile.run(self.residency, |tile| product(tile, rows.clone()))?);
        }
        match &outputs[..] {
            [output] => Ok(output.clone()),
            outputs => Ok(mlx_rs::ops::concatenate(&to_arrays(outputs)?, -1)?.into()),
        }
    }
}
