//! Builder of modules with unloaded parameters, in the shapes that the configuration implies.
//!
//! A parameter starts as zeros that are never evaluated, so it takes no memory; the proxy checks the checkpoint against
//! its shape and dtype, and binds the loaded weights in its place.

use std::ops::Range;

use flash_io::Tensor;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype};

use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::config::{Config, QuantizedFormat, QuantizedMode};
use crate::compute::{Backend, NormArgs};
use crate::nn::fused::Fused;
use crate::nn::layers::{Linear, RmsNorm};
use crate::nn::tiled::{TiledLinear, TiledMatrix, Tiling};

/// Builder of modules at a path of a checkpoint, like candle's `VarBuilder`.
#[derive(Debug, Clone)]
pub(crate) struct VarBuilder<'a> {
    checkpoint: &'a Checkpoint,
    backend: &'a Backend,
    fused: &'a [Fused],
    tiling: Option<&'a Tiling>,
    path: String,
    /// Path of the stored tensors, where it is not `path`.
    stored: Option<String>,
}

impl<'a> VarBuilder<'a> {
    /// Starts at the root of a checkpoint; modules compute on `backend`.
    pub(crate) fn new(checkpoint: &'a Checkpoint, backend: &'a Backend) -> Self {
        Self { checkpoint, backend, fused: &[], tiling: None, path: String::new(), stored: None }
    }

    /// Returns this builder with matrices of layers in tiles, if there is a tiling.
    pub(crate) fn with_tiling(self, tiling: Option<&'a Tiling>) -> Self {
        Self { tiling, ..self }
    }

    /// Returns the tiling that matrices of layers were added to.
    pub(crate) fn tiling(&self) -> Option<&'a Tiling> {
        self.tiling
    }

    /// Returns the builder at `name` below this path.
    pub(crate) fn at(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let stored = self.stored.as_ref().map(|stored| format!("{stored}.{name}"));
        Self { path, stored, ..*self }
    }

    /// Returns this builder with tensors that are stored at another path.
    pub(crate) fn stored_at(&self, path: String) -> Self {
        Self { stored: Some(path), ..self.clone() }
    }

    /// Returns this builder with matrices that are stored as rows of fused tensors.
    pub(crate) fn with_fused<'b>(&self, fused: &'b [Fused]) -> VarBuilder<'b>
    where
        'a: 'b,
    {
        VarBuilder { fused, ..self.clone() }
    }

    /// Returns the path in the checkpoint.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    pub(crate) fn config(&self) -> &'a Config {
        self.checkpoint.config()
    }

    /// Returns the backend that modules compute on.
    pub(crate) fn backend(&self) -> &'a Backend {
        self.backend
    }

    /// Builds a linear layer, quantized if the checkpoint has scales for it.
    pub(crate) fn linear(&self, input_dims: i32, output_dims: i32, bias: bool) -> Result<Linear, ModelError> {
        self.linear_with_format(self.format(input_dims)?, input_dims, output_dims, bias)
    }

    /// Builds a linear layer, in tiles if the builder has a tiling. Layers must be built in execution order then.
    pub(crate) fn tiled_linear(
        &self,
        input_dims: i32,
        output_dims: i32,
        bias: bool,
    ) -> Result<TiledLinear, ModelError> {
        let Some(tiling) = self.tiling else {
            return Ok(TiledLinear::whole(self.linear(input_dims, output_dims, bias)?));
        };
        let n_rows = output_dims as u64;
        let mut tiles: Vec<(Range<u64>, Linear)> = Vec::new();
        for rows in tiling.ranges(n_rows, self.row_bytes()) {
            let tile_rows = rows.end - rows.start;
            let tile = match tiles.last() {
                // There are thousands of tiles: those of equal length share their placeholders.
                Some((last, tile)) if last.end - last.start == tile_rows => tile.clone(),
                _ => self.linear(input_dims, tile_rows as i32, bias)?,
            };
            tiles.push((rows, tile));
        }
        Ok(tiling.add(self.backend, TiledMatrix { path: self.path.clone(), n_rows, tiles }))
    }

    /// Returns the bytes of a row of the stored matrix at this path, with its scales and biases.
    pub(crate) fn row_bytes(&self) -> u64 {
        let path = self.stored.clone().unwrap_or_else(|| Fused::whole_path(self.fused, &self.path));
        let names = ["weight", "scales", "biases"].map(|name| format!("{path}.{name}"));
        let tensors = names.iter().filter_map(|name| self.checkpoint.catalog().get(name));
        let row_bytes =
            |tensor: &Tensor| tensor.span.len_bytes() / tensor.shape.first().map_or(1, |n| (*n).max(1));
        tensors.map(row_bytes).sum()
    }

    /// Builds a linear layer in a given format, where names and configuration do not determine it.
    pub(crate) fn linear_with_format(
        &self,
        format: Option<QuantizedFormat>,
        input_dims: i32,
        output_dims: i32,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let bias = bias.then(|| self.vector(output_dims)).transpose()?;
        let linear = self.linear_stack(format, &[], input_dims, output_dims)?;
        Ok(Linear { bias: Param::new(bias), ..linear })
    }

    /// Builds a stack of matrices, one for each of `n_heads` heads, stored as one tensor.
    pub(crate) fn linear_per_head(
        &self,
        n_heads: i32,
        input_dims: i32,
        output_dims: i32,
    ) -> Result<Linear, ModelError> {
        self.linear_stack(self.format(input_dims)?, &[n_heads], input_dims, output_dims)
    }

    /// Builds a placeholder for a matrix that a layer derives from others.
    pub(crate) fn derived(&self, format: Option<QuantizedFormat>) -> Result<Linear, ModelError> {
        let empty = || unloaded(&[0], Dtype::Float32);
        let group_params = || format.map(|_| empty()).transpose();
        Ok(Linear {
            backend: self.backend.clone(),
            format,
            is_wide: self.backend.is_exact(),
            weight: Param::new(empty()?),
            scales: Param::new(group_params()?),
            biases: Param::new(group_params()?),
            bias: Param::new(None),
        })
    }

    /// Returns the format of the matrix at this path; `None` if the checkpoint has no scales for it.
    fn format(&self, input_dims: i32) -> Result<Option<QuantizedFormat>, ModelError> {
        let path = Fused::whole_path(self.fused, &self.path);
        let stored = self.stored.as_ref().unwrap_or(&path);
        self.checkpoint.format(&path, stored, input_dims)
    }

    /// Builds a matrix, or a stack of them with the leading dimensions `stack`.
    fn linear_stack(
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

    /// Returns an unloaded vector.
    pub(crate) fn vector(&self, dims: i32) -> Result<Array, ModelError> {
        unloaded(&[dims], Dtype::Float32)
    }

    /// Returns an unloaded array of floats.
    pub(crate) fn array(&self, shape: &[i32]) -> Result<Array, ModelError> {
        unloaded(shape, Dtype::Float32)
    }

    /// Builds an RMSNorm over the last axis.
    pub(crate) fn rms_norm(&self, dims: i32, args: NormArgs) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm { backend: self.backend.clone(), args, weight: Param::new(self.vector(dims)?) })
    }
}

/// Returns zeros that are not evaluated.
fn unloaded(shape: &[i32], dtype: Dtype) -> Result<Array, ModelError> {
    Ok(mlx_rs::ops::zeros_dtype(shape, dtype)?)
}
