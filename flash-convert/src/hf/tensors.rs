//! Helpers for the tensors of a checkpoint.

use std::path::PathBuf;

use flash_io::{Catalog, Dtype, Tensor};
use flash_kernels::FloatType;

use crate::error::ConvertError;

/// Returns the float type of a tensor; fails for other dtypes.
pub(super) fn float_type(catalog: &Catalog, tensor: &Tensor) -> Result<FloatType, ConvertError> {
    match tensor.dtype {
        Dtype::F32 => Ok(FloatType::F32),
        Dtype::F16 => Ok(FloatType::F16),
        Dtype::BF16 => Ok(FloatType::BF16),
        found => {
            let (path, tensor) = (shard_path(catalog, tensor), tensor.name.clone());
            Err(ConvertError::TensorDtype { path, tensor, found })
        }
    }
}

/// Returns the path of a tensor's shard.
pub(super) fn shard_path(catalog: &Catalog, tensor: &Tensor) -> PathBuf {
    catalog.shards()[tensor.shard.0].path.clone()
}

/// Returns the error of a tensor with the wrong shape.
pub(super) fn shape_error(catalog: &Catalog, tensor: &Tensor, wanted: String) -> ConvertError {
    let (path, found) = (shard_path(catalog, tensor), tensor.shape.clone());
    ConvertError::CheckpointShape { path, tensor: tensor.name.clone(), wanted, found }
}
