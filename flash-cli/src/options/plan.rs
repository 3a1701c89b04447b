//! Settings of `plan`.

use std::num::NonZeroU64;

use flash_model::MachineSpeeds;

use crate::args::PlanArgs;
use crate::model::ModelName;
use crate::size::Size;
use crate::speed::{ComputeSpeed, Rate};
use crate::usage::context_at_least;

#[derive(Debug)]
pub(crate) struct PlanOptions {
    pub(crate) model: ModelName,
    /// Largest number of rows in a tile, if layers are cut into tiles.
    pub(crate) tile_rows: Option<NonZeroU64>,
    /// Memory budget, if given.
    pub(crate) ram: Option<Size>,
    pub(crate) context_tokens: usize,
    pub(crate) disk: Assumable<Rate>,
    pub(crate) compute: Assumable<ComputeSpeed>,
    pub(crate) json: bool,
}

/// A value from a flag, or an assumed default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assumable<T> {
    pub(crate) value: T,
    pub(crate) is_assumed: bool,
}

impl<T> Assumable<T> {
    fn new(given: Option<T>, default: T) -> Self {
        Self { is_assumed: given.is_none(), value: given.unwrap_or(default) }
    }
}

impl PlanOptions {
    pub(crate) fn resolve(args: PlanArgs) -> anyhow::Result<Self> {
        let PlanArgs { model, tiling, ram, ctx, disk, compute, json } = args;
        let assumed = MachineSpeeds::default();
        Ok(Self {
            model,
            tile_rows: tiling.rows(),
            ram,
            context_tokens: context_at_least(1, ctx)?,
            disk: Assumable::new(disk, Rate(assumed.disk.rate)),
            compute: Assumable::new(compute, ComputeSpeed::Weights(Rate(assumed.compute))),
            json,
        })
    }
}
