//! Neural-network modules, with parameters named as in checkpoints, built from the operations of
//! [`compute`](crate::compute). Nothing here depends on a model family or loads weights.

pub(crate) mod attention;
pub(crate) mod convolution;
pub(crate) mod expert;
pub(crate) mod fused;
pub(crate) mod gated_delta;
pub(crate) mod layer;
pub(crate) mod layers;
pub(crate) mod mamba2;
pub(crate) mod mlp;
pub(crate) mod moe_gate;
pub(crate) mod rope;
pub(crate) mod router;
pub(crate) mod tiled;
pub(crate) mod var_builder;
