//! Layers before their weights are there: modules whose parameters have the shapes that the configuration asks for.
//!
//! A parameter starts as zeros that are never evaluated, so it costs nothing; the proxy checks the checkpoint against
//! its shape and dtype, and binds the loaded weights in its place.

use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype};

use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::config::Config;
use crate::checkpoint::config::{QuantizedFormat, QuantizedMode};
use crate::compute::Backend;
use crate::compute::NormArgs;
use crate::nn::fused::Fused;
use crate::nn::layers::{Linear, RmsNorm};

/// Makes the modules below one path of a checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    backend: &'a Backend,
    fused: &'a [Fused],
    path: String,
    /// Where the tensors are, if that is not their path.
    stored: Option<String>,
}

impl<'a> Weights<'a> {
    /// All of a checkpoint, for `backend` to compute with.
    pub(crate) fn new(checkpoint: &'a Checkpoint, backend: &'a Backend) -> Self {
        Self { checkpoint, backend, fused: &[], path: String::new(), stored: None }
    }

    /// Those below `name` in here.
    pub(crate) fn at(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let stored = self.stored.as_ref().map(|stored| format!("{stored}.{name}"));
        Self { path, stored, ..*self }
    }

    /// The same, whose tensors are called otherwise.
    pub(crate) fn stored_at(&self, path: String) -> Self {
        Self { stored: Some(path), ..self.clone() }
    }

    /// The same, where some matrices are rows of others.
    pub(crate) fn with_fused<'b>(&self, fused: &'b [Fused]) -> Weights<'b>
    where
        'a: 'b,
    {
        Weights { fused, ..self.clone() }
    }

    /// Where they are in the checkpoint.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    pub(crate) fn config(&self) -> &'a Config {
        self.checkpoint.config()
    }

    /// What computes with them.
    pub(crate) fn backend(&self) -> &'a Backend {
        self.backend
    }

    /// `y = x · Wᵀ (+ b)`: quantised if the checkpoint has scales for it.
    pub(crate) fn linear(&self, input_dims: i32, output_dims: i32, bias: bool) -> Result<Linear, ModelError> {
        self.linear_in(self.format(input_dims)?, input_dims, output_dims, bias)
    }

    /// The same, quantised in a format that does not follow from names and configuration.
    pub(crate) fn linear_in(
        &self,
        format: Option<QuantizedFormat>,
        input_dims: i32,
        output_dims: i32,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let bias = bias.then(|| self.vector(output_dims)).transpose()?;
        let linear = self.matrices(format, &[], input_dims, output_dims)?;
        Ok(Linear { bias: Param::new(bias), ..linear })
    }

    /// A matrix for each of so many heads, in one tensor.
    pub(crate) fn linear_each(
        &self,
        n_heads: i32,
        input_dims: i32,
        output_dims: i32,
    ) -> Result<Linear, ModelError> {
        self.matrices(self.format(input_dims)?, &[n_heads], input_dims, output_dims)
    }

    /// A matrix that a layer makes of others.
    pub(crate) fn made(&self, format: Option<QuantizedFormat>) -> Result<Linear, ModelError> {
        let nothing = || unloaded(&[0], Dtype::Float32);
        let of_groups = || format.map(|_| nothing()).transpose();
        Ok(Linear {
            backend: self.backend.clone(),
            format,
            is_wide: self.backend.is_exact(),
            weight: Param::new(nothing()?),
            scales: Param::new(of_groups()?),
            biases: Param::new(of_groups()?),
            bias: Param::new(None),
        })
    }

    /// How it is quantised, if the checkpoint has scales for it.
    fn format(&self, input_dims: i32) -> Result<Option<QuantizedFormat>, ModelError> {
        let path = Fused::whole_path(self.fused, &self.path);
        let stored = self.stored.as_ref().unwrap_or(&path);
        self.checkpoint.format(&path, stored, input_dims)
    }

    /// Matrices of one shape: as many as `stack` says, or one if it says nothing.
    fn matrices(
        &self,
        format: Option<QuantizedFormat>,
        stack: &[i32],
        input_dims: i32,
        output_dims: i32,
    ) -> Result<Linear, ModelError> {
        let shape = |columns| [stack, &[output_dims, columns]].concat();
        let mut linear = Linear {
            backend: self.backend.clone(),
            format,
            is_wide: self.backend.is_exact(),
            weight: Param::new(unloaded(&shape(input_dims), Dtype::Float32)?),
            scales: Param::new(None),
            biases: Param::new(None),
            bias: Param::new(None),
        };
        let Some(format) = format else { return Ok(linear) };
        if input_dims % format.group_size != 0 {
            return Err(self.config().field_error(
                "quantization",
                &format.group_size,
                "the group size must divide every row",
            ));
        }
        let groups = |dtype| unloaded(&shape(input_dims / format.group_size), dtype).map(Some);
        linear.weight = Param::new(unloaded(&shape(format.row_words(input_dims)), Dtype::Uint32)?);
        if format.mode == QuantizedMode::Affine {
            linear.scales = Param::new(groups(Dtype::Float32)?);
            linear.biases = Param::new(groups(Dtype::Float32)?);
        } else {
            linear.scales = Param::new(groups(Dtype::Uint8)?);
        }
        Ok(linear)
    }

    /// Numbers that are no matrix.
    pub(crate) fn vector(&self, dims: i32) -> Result<Array, ModelError> {
        unloaded(&[dims], Dtype::Float32)
    }

    /// Numbers of any floating-point type.
    pub(crate) fn array(&self, shape: &[i32]) -> Result<Array, ModelError> {
        unloaded(shape, Dtype::Float32)
    }

    /// RMSNorm over the last axis.
    pub(crate) fn rms_norm(&self, dims: i32, args: NormArgs) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm { backend: self.backend.clone(), args, weight: Param::new(self.vector(dims)?) })
    }
}

fn unloaded(shape: &[i32], dtype: Dtype) -> Result<Array, ModelError> {
    Ok(mlx_rs::ops::zeros_dtype(shape, dtype)?)
}
