//! The short convolution in front of a recurrence: each channel by itself, over a token and the few before it.

use mlx_rs::Array;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::ModelError;
use crate::weights::Weights;

/// Its weights.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Convolution {
    /// `[channels, kernel, 1]`; or, as models are trained, `[channels, 1, kernel]`, which is the same numbers in the same order.
    #[param]
    pub weight: Param<Array>,
    /// `[channels]`.
    #[param]
    pub bias: Param<Option<Array>>,
}

impl Convolution {
    pub(crate) fn new(
        channels: i32,
        kernel: i32,
        bias: bool,
        weights: &Weights<'_>,
    ) -> Result<Self, ModelError> {
        let trained = [channels as u64, 1, kernel as u64];
        let tensor = weights.checkpoint().catalog().get(&format!("{}.weight", weights.path()));
        let shape = match tensor {
            Some(tensor) if tensor.shape == trained => [channels, 1, kernel],
            _ => [channels, kernel, 1],
        };
        let bias = if bias { Some(weights.vector(channels)?) } else { None };
        Ok(Self { weight: Param::new(weights.array(&shape)?), bias: Param::new(bias) })
    }
}
