//! Experts of `gpt_oss` as published: mxfp4 blocks, with the rows of gate and up projections interleaved.

use flash_io::{Catalog, Dtype, Tensor};
use serde_json::{Value, json};

use super::parameter::{Content, Encoding, Parameter, Piece, Rows};
use super::tensors;
use crate::error::ConvertError;

/// Values of a block, which share one scale.
const BLOCK_VALUES: u64 = 32;

/// Bytes of a block's codes, two in a byte.
const BLOCK_BYTES: u64 = 16;

/// Names of matrices: as published, and the one or two matrices that they are split into.
const MATRICES: [(&str, &[&str]); 2] =
    [("gate_up_proj", &["gate_proj", "up_proj"]), ("down_proj", &["down_proj"])];

/// Returns whether `quantization_config` describes this format.
pub(super) fn is_configured(quantization: &Value) -> bool {
    quantization["quant_method"] == "mxfp4"
}

/// Returns `quantization` of the converted config.json.
pub(super) fn quantization() -> Value {
    json!({"group_size": BLOCK_VALUES, "bits": 4, "mode": "mxfp4"})
}

/// Returns the parameters made from a tensor of experts; None for a tensor that is not transformed.
pub(super) fn parameters(catalog: &Catalog, tensor: &Tensor) -> Result<Option<Vec<Parameter>>, ConvertError> {
    let Some((experts, matrix)) = tensor.name.split_once(".mlp.experts.") else { return Ok(None) };
    let parts = MATRICES.iter().find_map(|(name, becomes)| Some((matrix.strip_prefix(name)?, *becomes)));
    let Some((part, becomes)) = parts else { return Ok(None) };
    let names = becomes.iter().map(|name| format!("{experts}.mlp.experts.{name}"));
    match part {
        "_blocks" => blocks(catalog, tensor, names).map(Some),
        // Scales are read together with their blocks.
        "_scales" => Ok(Some(Vec::new())),
        "_bias" => biases(catalog, tensor, names).map(Some),
        // These already have mlx-lm's layout.
        ".weight" | ".bias" if becomes.len() == 1 => Ok(None),
        _ => {
            let (path, tensor) = (tensors::shard_path(catalog, tensor), tensor.name.clone());
            Err(ConvertError::UnknownTensor { path, tensor })
        }
    }
}

/// Returns the weights made from blocks `[n_experts, rows, blocks, 16]` of bytes, with a scale for each block.
fn blocks(
    catalog: &Catalog,
    tensor: &Tensor,
    names: impl ExactSizeIterator<Item = String>,
) -> Result<Vec<Parameter>, ConvertError> {
    let path = || tensors::shard_path(catalog, tensor);
    let n_parts = names.len() as u64;
    let &[n_experts, n_rows, n_blocks, BLOCK_BYTES] = tensor.shape.as_slice() else {
        return Err(tensors::shape_error(catalog, tensor, "[experts, rows, blocks, 16]".to_owned()));
    };
    if !n_rows.is_multiple_of(n_parts) {
        return Err(tensors::shape_error(catalog, tensor, "an even number of rows".to_owned()));
    }
    let name = tensor.name.replace("_blocks", "_scales");
    let Some(scales) = catalog.get(&name) else {
        return Err(ConvertError::MissingTensor { path: path(), tensor: name });
    };
    if scales.shape != [n_experts, n_rows, n_blocks] {
        return Err(tensors::shape_error(catalog, scales, format!("{:?}", [n_experts, n_rows, n_blocks])));
    }
    for bytes in [tensor, scales] {
        if bytes.dtype != Dtype::U8 {
            let (tensor, found) = (bytes.name.clone(), bytes.dtype);
            return Err(ConvertError::TensorDtype { path: path(), tensor, found });
        }
    }
    let piece = |tensor: &Tensor, first, n_cols| {
        let count = n_experts * (n_rows / n_parts);
        let rows = Rows { first, count, step: n_parts, n_cols, is_transposed: false };
        Piece { tensor: tensor.clone(), encoding: Encoding::Bytes, rows }
    };
    let parameters = (0..).zip(names).map(|(first, name)| Parameter {
        name: format!("{name}.weight"),
        shape: vec![n_experts, n_rows / n_parts, n_blocks * BLOCK_VALUES],
        content: Content::Mxfp4(Box::new([
            piece(tensor, first, n_blocks * BLOCK_BYTES),
            piece(scales, first, n_blocks),
        ])),
    });
    Ok(parameters.collect())
}

/// Returns the biases made from floats `[n_experts, rows]`.
fn biases(
    catalog: &Catalog,
    tensor: &Tensor,
    names: impl ExactSizeIterator<Item = String>,
) -> Result<Vec<Parameter>, ConvertError> {
    let n_parts = names.len() as u64;
    let float = tensors::float_type(catalog, tensor)?;
    let &[n_experts, n_rows] = tensor.shape.as_slice() else {
        return Err(tensors::shape_error(catalog, tensor, "[experts, rows]".to_owned()));
    };
    if !n_rows.is_multiple_of(n_parts) {
        return Err(tensors::shape_error(catalog, tensor, "an even number of rows".to_owned()));
    }
    let parameters = (0..).zip(names).map(|(first, name)| {
        let count = n_experts * (n_rows / n_parts);
        let rows = Rows { first, count, step: n_parts, n_cols: 1, is_transposed: false };
        let piece = Piece { tensor: tensor.clone(), encoding: Encoding::Float(float), rows };
        Parameter {
            name: format!("{name}.bias"),
            shape: vec![n_experts, n_rows / n_parts],
            content: Content::Floats { float, pieces: vec![piece] },
        }
    });
    Ok(parameters.collect())
}
