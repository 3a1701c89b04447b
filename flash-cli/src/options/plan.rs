//! What is planned, and for which machine.

use flash_model::MachineSpeeds;

use super::at_least;
use crate::args::PlanArgs;
use crate::model::ModelName;
use crate::size::Size;
use crate::speed::{ComputeSpeed, Rate};

#[derive(Debug)]
pub(crate) struct PlanOptions {
    pub(crate) model: ModelName,
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
        let usual = MachineSpeeds::default();
        Ok(Self {
            model,
            ram,
            context_tokens: at_least(1, ctx)?,
            disk: Assumable::new(disk, Rate(usual.disk.rate)),
            compute: Assumable::new(compute, ComputeSpeed::Weights(Rate(usual.compute))),
            json,
        })
    }
}
