//! Streaming: which weights are in memory, and how the others come and go. Layers run inside of a [`proxy`], which asks
//! [`residency`] for their bundles; [`experts`] does the same for the experts of mixtures, whose demand is known only when a router
//! has computed.

pub(crate) mod bundle;
pub(crate) mod conduct;
mod control;
mod evaluation;
pub(crate) mod experts;
mod meter;
pub(crate) mod pace;
pub(crate) mod planner;
pub(crate) mod proxy;
mod read_ahead;
pub(crate) mod record;
pub(crate) mod residency;
mod strips;
