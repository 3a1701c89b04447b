//! The short causal convolution before a recurrence.

use mlx_rs::Array;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::ModelError;
use crate::compute;
use crate::nn::var_builder::VarBuilder;

/// A depthwise causal convolution over a token and the `kernel - 1` tokens before it.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Convolution {
    /// `[channels, kernel, 1]`, or `[channels, 1, kernel]` in Hugging Face's layout, which has the same memory order.
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
        weights: &VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let hf_shape = [channels as u64, 1, kernel as u64];
        let tensor = weights.checkpoint().catalog().get(&format!("{}.weight", weights.path()));
        let shape = match tensor {
            Some(tensor) if tensor.shape == hf_shape => [channels, 1, kernel],
            _ => [channels, kernel, 1],
        };
        let bias = if bias { Some(weights.vector(channels)?) } else { None };
        Ok(Self { weight: Param::new(weights.array(&shape)?), bias: Param::new(bias) })
    }

    /// Returns the arrays for a backend.
    pub(crate) fn weights(&self) -> compute::Convolution<'_> {
        compute::Convolution { weight: &self.weight, bias: self.bias.value.as_ref() }
    }
}
