//! Layers before their weights are there: modules whose parameters have the shapes that the configuration asks for.
//!
//! A parameter starts as zeros that are never evaluated, so it costs nothing; the proxy checks the checkpoint against
//! its shape and dtype, and binds the loaded weights in its place.

use mlx_rs::module::Param;
use mlx_rs::nn::{Linear, QuantizedLinear, RmsNorm};
use mlx_rs::quantization::MaybeQuantized;
use mlx_rs::{Array, Dtype};

use crate::ModelError;
use crate::checkpoint::Checkpoint;

/// Makes the modules below one path of a checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    path: String,
}

impl<'a> Weights<'a> {
    /// Those below `path`, without a dot at its end.
    pub(crate) fn new(checkpoint: &'a Checkpoint, path: impl Into<String>) -> Self {
        Self { checkpoint, path: path.into() }
    }

    /// Those below `name` in here.
    pub(crate) fn at(&self, name: &str) -> Self {
        Self::new(self.checkpoint, format!("{}.{name}", self.path))
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// `y = x · Wᵀ (+ b)`: quantised if the checkpoint has scales for it.
    pub(crate) fn linear(
        &self,
        input_dims: i32,
        output_dims: i32,
        bias: bool,
    ) -> Result<MaybeQuantized<Linear>, ModelError> {
        let bias = if bias { Some(unloaded(&[output_dims], Dtype::Float32)?) } else { None };
        let linear = |weight| Linear { weight: Param::new(weight), bias: Param::new(bias) };
        if !self.checkpoint.has(&format!("{}.scales", self.path)) {
            return Ok(MaybeQuantized::Original(linear(unloaded(
                &[output_dims, input_dims],
                Dtype::Float32,
            )?)));
        }
        let config = self.checkpoint.config();
        let format = config.quantized_format(&self.path).ok_or_else(|| {
            config.field_error("quantization", &"missing", "the weights are quantised, so it must say how")
        })?;
        if input_dims % format.group_size != 0 {
            return Err(config.field_error(
                "quantization",
                &format.group_size,
                "the group size must divide every row",
            ));
        }
        let n_groups = input_dims / format.group_size;
        Ok(MaybeQuantized::Quantized(QuantizedLinear {
            group_size: format.group_size,
            bits: format.bits,
            scales: Param::new(unloaded(&[output_dims, n_groups], Dtype::Float32)?),
            biases: Param::new(unloaded(&[output_dims, n_groups], Dtype::Float32)?),
            inner: linear(unloaded(&[output_dims, input_dims * format.bits / 32], Dtype::Uint32)?),
        }))
    }

    /// RMSNorm over the last axis.
    pub(crate) fn rms_norm(&self, dims: i32, eps: f32) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm { weight: Param::new(unloaded(&[dims], Dtype::Float32)?), eps })
    }
}

fn unloaded(shape: &[i32], dtype: Dtype) -> Result<Array, ModelError> {
    Ok(mlx_rs::ops::zeros_dtype(shape, dtype)?)
}
