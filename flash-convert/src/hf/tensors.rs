use std::path::PathBuf;

use flash_io::{Catalog, Dtype, Tensor};
use flash_kernels::FloatType;

use crate::error::ConvertError;

/// How the values of a tensor of floats are stored.
pub(super) fn float(catalog: &Catalog, tensor: &Tensor) -> Result<FloatType, ConvertError> {
    match tensor.dtype {
        Dtype::F32 => Ok(FloatType::F32),
        Dtype::F16 => Ok(FloatType::F16),
        Dtype::BF16 => Ok(FloatType::BF16),
        found => {
            let (path, tensor) = (path_of(catalog, tensor), tensor.name.clone());
            Err(ConvertError::TensorDtype { path, tensor, found })
        }
    }
}

/// The shard that has a tensor.
pub(super) fn path_of(catalog: &Catalog, tensor: &Tensor) -> PathBuf {
    catalog.shards()[tensor.shard.0].path.clone()
}

/// The error of a tensor whose shape does not fit.
pub(super) fn misshapen(catalog: &Catalog, tensor: &Tensor, wanted: String) -> ConvertError {
    let (path, found) = (path_of(catalog, tensor), tensor.shape.clone());
    ConvertError::CheckpointShape { path, tensor: tensor.name.clone(), wanted, found }
}
