//! What a layer has of its experts itself: the matrix that scores them.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;

use super::{ExpertDims, Routed};
use crate::ModelError;
use crate::layers::Linear;
use crate::weights::Weights;

/// The router's matrix. It stands where a layer without experts has its MLP.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Gate {
    #[param]
    gate: Linear,
}

impl Gate {
    pub(crate) fn new(weights: &Weights<'_>, dims: ExpertDims) -> Result<Self, ModelError> {
        Ok(Self { gate: weights.at("gate").linear(dims.hidden, dims.n_experts as i32, false)? })
    }

    /// Sends hidden states, `[1, n, hidden]`, to the experts.
    pub(crate) fn route(&mut self, x: Array) -> Result<Routed, Exception> {
        Ok(Routed { scores: self.gate.forward(&x)?, x })
    }
}
