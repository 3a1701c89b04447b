//! The short causal convolution in front of a recurrence.

use mlx_rs::Array;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::ModelError;
use crate::compute;
use crate::nn::weights::Weights;

/// A causal convolution: each channel by itself, over a token and the few before it.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Convolution {
    /// `[channels, kernel, 1]`; or, as models are trained, `[channels, 1, kernel]`, which is the same numbers in the same order.
    #[param]
    weight: Param<Array>,
    /// `[channels]`.
    #[param]
    bias: Param<Option<Array>>,
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

    /// Its arrays, for a backend.
    pub(crate) fn weights(&self) -> compute::Convolution<'_> {
        compute::Convolution { weight: &self.weight, bias: self.bias.value.as_ref() }
    }
}
