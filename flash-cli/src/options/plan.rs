//! What is planned, and for which machine.

use std::path::PathBuf;

use flash_sched::ByteRate;

use super::at_least;
use crate::args::PlanArgs;
use crate::size::Size;
use crate::speed::{ComputeSpeed, Rate};

/// A modest SSD, or a virtual disk, in bytes per second.
const DISK_DEFAULT_BYTES_PER_S: f64 = 2e9;
/// What two cores of a server reached with 4-bit weights (docs/performance.md), in bytes per second.
const COMPUTE_DEFAULT_BYTES_PER_S: f64 = 20e9;

#[derive(Debug)]
pub(crate) struct PlanOptions {
    pub(crate) model_dir: PathBuf,
    /// The budget, if someone says.
    pub(crate) ram: Option<Size>,
    pub(crate) context_tokens: usize,
    pub(crate) disk: Assumable<Rate>,
    pub(crate) compute: Assumable<ComputeSpeed>,
    pub(crate) json: bool,
}

/// What was said, or else what is assumed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assumable<T> {
    pub(crate) value: T,
    pub(crate) is_assumed: bool,
}

impl<T> Assumable<T> {
    fn new(said: Option<T>, default: T) -> Self {
        Self { is_assumed: said.is_none(), value: said.unwrap_or(default) }
    }
}

impl PlanOptions {
    pub(crate) fn resolve(args: PlanArgs) -> anyhow::Result<Self> {
        let PlanArgs { model, ram, ctx, disk, compute, json } = args;
        let weights = Rate(ByteRate::new(COMPUTE_DEFAULT_BYTES_PER_S)?);
        Ok(Self {
            model_dir: model,
            ram,
            context_tokens: at_least(1, ctx)?,
            disk: Assumable::new(disk, Rate(ByteRate::new(DISK_DEFAULT_BYTES_PER_S)?)),
            compute: Assumable::new(compute, ComputeSpeed::Weights(weights)),
            json,
        })
    }
}
