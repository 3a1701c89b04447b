//! Weight streaming: which weights are in memory, and how the others are loaded and released. Layers run inside a
//! [`proxy`], which requests their bundles from [`residency`]. [`experts`] loads the experts of mixtures, whose demand
//! is known only once a router has computed.

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
pub(crate) mod tiles;
