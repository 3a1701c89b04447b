//! int4 experts of Kimi K2, trained with quantization awareness (`pack-quantized` of `compressed-tensors`): integers
//! from −8 to 7 with a scale for each group. In MLX's affine format they are the same codes with a bias of −8 scales.

use flash_io::{Catalog, Dtype, Tensor};
use serde_json::{Value, json};

use super::tensors;
use crate::error::ConvertError;

/// Values that share a scale.
pub(super) const GROUP_LEN: u64 = 32;

/// Bits of a code.
pub(super) const BITS: u32 = 4;

/// Bias of MLX's affine format in units of the scale: the value of code 0.
pub(super) const BIAS: f32 = -8.0;

/// Suffix of codes, eight in a word.
const PACKED: &str = "_packed";
/// Suffix of scales.
const SCALES: &str = ".weight_scale";
/// Suffix of the unpacked shape.
const SHAPE: &str = ".weight_shape";

/// Returns whether `quantization_config` describes this format.
pub(super) fn is_configured(quantization: &Value) -> bool {
    quantization["quant_method"] == "compressed-tensors" && quantization["format"] == "pack-quantized"
}

/// Returns `quantization` of the converted config.json.
pub(super) fn quantization() -> Value {
    json!({"group_size": GROUP_LEN, "bits": BITS, "mode": "affine"})
}

/// Returns whether a tensor holds the scales or the shape of a packed matrix.
pub(super) fn is_companion(name: &str) -> bool {
    name.ends_with(SCALES) || name.ends_with(SHAPE)
}

/// Returns the name of the matrix whose codes are named `name`.
pub(super) fn matrix(name: &str) -> Option<&str> {
    name.strip_suffix(PACKED).filter(|matrix| matrix.ends_with(".weight"))
}

/// Returns the scales of a packed matrix after checking types and shapes.
pub(super) fn scales_of(catalog: &Catalog, tensor: &Tensor, matrix: &str) -> Result<Tensor, ConvertError> {
    let path = || tensors::shard_path(catalog, tensor);
    if !matches!(tensor.dtype, Dtype::I32 | Dtype::U32) {
        let (tensor, found) = (tensor.name.clone(), tensor.dtype);
        return Err(ConvertError::TensorDtype { path: path(), tensor, found });
    }
    let name = format!("{matrix}_scale");
    let Some(scales) = catalog.get(&name) else {
        return Err(ConvertError::MissingTensor { path: path(), tensor: name });
    };
    let words = GROUP_LEN * u64::from(BITS) / u64::from(u32::BITS);
    match (tensor.shape.as_slice(), scales.shape.as_slice()) {
        ([n_rows, n_words], [n_scaled, n_groups]) if n_rows == n_scaled && n_groups * words == *n_words => {}
        _ => {
            let wanted = format!("one scale for every {words} words of {:?}", tensor.shape);
            return Err(tensors::shape_error(catalog, scales, wanted));
        }
    }
    tensors::float_type(catalog, scales)?;
    Ok(scales.clone())
}
