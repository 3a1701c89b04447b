//! Checkpoints of Kimi K2 as it was trained to be quantised: integers of four bits from −8 on, with a scale for each group
//! (`pack-quantized` of `compressed-tensors`). To MLX they are codes with a bias of eight scales below zero.

use flash_io::{Catalog, Dtype, Tensor};
use serde_json::{Value, json};

use super::tensors;
use crate::error::ConvertError;

/// Values that share a scale.
pub(super) const GROUP: u64 = 32;

pub(super) const BITS: u32 = 4;

/// How many scales the code 0 is below zero.
pub(super) const BIAS: f32 = -8.0;

/// What tensors have behind the name of the matrix: codes, eight in a word; scales; what the shape was before.
const PACKED: &str = "_packed";
const SCALES: &str = ".weight_scale";
const SHAPE: &str = ".weight_shape";

/// Whether `quantization_config` is of this format.
pub(super) fn is_configured(quantization: &Value) -> bool {
    quantization["quant_method"] == "compressed-tensors" && quantization["format"] == "pack-quantized"
}

/// What config.json says of it afterwards.
pub(super) fn quantization() -> Value {
    json!({"group_size": GROUP, "bits": BITS, "mode": "affine"})
}

/// Whether a tensor goes with codes.
pub(super) fn is_beside(name: &str) -> bool {
    name.ends_with(SCALES) || name.ends_with(SHAPE)
}

/// What a matrix is called whose codes have that name.
pub(super) fn matrix(name: &str) -> Option<&str> {
    name.strip_suffix(PACKED).filter(|matrix| matrix.ends_with(".weight"))
}

/// The scales of codes, if they have the shape that fits.
pub(super) fn scales_of(catalog: &Catalog, tensor: &Tensor, matrix: &str) -> Result<Tensor, ConvertError> {
    let path = || tensors::path_of(catalog, tensor);
    if !matches!(tensor.dtype, Dtype::I32 | Dtype::U32) {
        let (tensor, found) = (tensor.name.clone(), tensor.dtype);
        return Err(ConvertError::TensorDtype { path: path(), tensor, found });
    }
    let name = format!("{matrix}_scale");
    let Some(scales) = catalog.get(&name) else {
        return Err(ConvertError::MissingTensor { path: path(), tensor: name });
    };
    let words = GROUP * u64::from(BITS) / u64::from(u32::BITS);
    match (tensor.shape.as_slice(), scales.shape.as_slice()) {
        ([n_rows, n_words], [n_scaled, n_groups]) if n_rows == n_scaled && n_groups * words == *n_words => {}
        _ => {
            let wanted = format!("a number for {words} words of {:?}", tensor.shape);
            return Err(tensors::misshapen(catalog, scales, wanted));
        }
    }
    tensors::float(catalog, scales)?;
    Ok(scales.clone())
}
