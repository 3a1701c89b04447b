//! fp8 weights of DeepSeek-V3: e4m3 values with a scale for each block of a matrix.

use flash_io::{Catalog, Tensor};
use flash_kernels::{FloatType, e4m3};
use serde_json::{Value, json};

use super::parameter::{Encoding, Piece, Rows};
use super::{gather, tensors};
use crate::error::ConvertError;

/// Rows and columns of a block.
const BLOCK: u64 = 128;

/// Type to which scaled values are rounded first, as in mlx-lm.
pub(super) const PRODUCT_TYPE: FloatType = FloatType::BF16;

/// Suffix of scales, appended to the name of their matrix.
const SCALES: &str = "_scale_inv";

/// Scales of a matrix, in memory during its conversion: one for 16,384 values.
#[derive(Debug)]
pub(super) struct Scales {
    values: Vec<f32>,
    n_cols: u64,
}

/// Returns whether `quantization_config` describes this format.
pub(super) fn is_configured(quantization: &Value) -> bool {
    quantization["quant_method"] == "fp8" && quantization["weight_block_size"] == json!([BLOCK, BLOCK])
}

/// Returns whether a tensor holds scales.
pub(super) fn is_scales(name: &str) -> bool {
    name.ends_with(SCALES)
}

/// Returns the scales of a matrix after checking their shape.
pub(super) fn scales_of(catalog: &Catalog, tensor: &Tensor) -> Result<Tensor, ConvertError> {
    let name = format!("{}{SCALES}", tensor.name);
    let Some(scales) = catalog.get(&name) else {
        return Err(ConvertError::MissingTensor { path: tensors::shard_path(catalog, tensor), tensor: name });
    };
    let wanted: Vec<u64> = tensor.shape.iter().map(|extent| extent.div_ceil(BLOCK)).collect();
    if tensor.shape.len() != 2 || scales.shape != wanted {
        return Err(tensors::shape_error(
            catalog,
            scales,
            format!("{wanted:?}, one scale for each block of a matrix"),
        ));
    }
    tensors::float_type(catalog, scales)?;
    Ok(scales.clone())
}

impl Scales {
    /// Reads the scales of a piece, if it is fp8.
    pub(super) fn read(catalog: &Catalog, piece: &Piece) -> Result<Option<Self>, ConvertError> {
        let Encoding::Fp8 { scales } = &piece.encoding else { return Ok(None) };
        let float = tensors::float_type(catalog, scales)?;
        let all = Piece::whole(scales, Encoding::Float(float));
        let n_values = all.n_values() as usize;
        let mut bytes = vec![0; n_values * float.size_bytes()];
        gather::read_whole(catalog, &all, &mut bytes)?;
        let mut values = vec![0.0; n_values];
        float.decode_into(&bytes, &mut values).expect("a slice of the values' length");
        Ok(Some(Self { values, n_cols: all.rows.n_cols }))
    }

    /// Decodes `codes`, which start at value `first` of the piece.
    pub(super) fn decode(&self, rows: Rows, first: u64, codes: &[u8], out: &mut [f32]) {
        let (mut codes, mut out, mut first) = (codes, out, first);
        while !codes.is_empty() {
            let (row, col) = rows.place(first);
            // A run ends with its block, or with the row or column.
            let run = if rows.is_transposed {
                let idx = (row - rows.first) / rows.step;
                (rows.count - idx).min((BLOCK - row % BLOCK).div_ceil(rows.step))
            } else {
                (rows.n_cols - col).min(BLOCK - col % BLOCK)
            };
            let len = codes.len().min(run as usize);
            let scale = self.values[(row / BLOCK * self.n_cols + col / BLOCK) as usize];
            for (value, code) in out[..len].iter_mut().zip(&codes[..len]) {
                *value = PRODUCT_TYPE.round(e4m3(*code) * scale);
            }
            (codes, out, first) = (&codes[len..], &mut out[len..], first + run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_scaled_by_its_block() {
        let scales = Scales { values: (1..=12).map(|scale| scale as f32).collect(), n_cols: 3 };
        // Rows of a matrix with 500 rows and 300 columns.
        for (first, count, step, is_transposed) in
            [(0, 500, 1, false), (120, 200, 1, true), (3, 140, 3, true)]
        {
            let rows = Rows { first, count, step, n_cols: 300, is_transposed };
            let codes: Vec<u8> = (0..count * 300).map(|idx| idx as u8).collect();
            for from in [0, 1, 40_000] {
                let mut found = vec![0.0; codes.len() - from];
                scales.decode(rows, from as u64, &codes[from..], &mut found);
                let wanted = (from..codes.len()).map(|idx| {
                    let (row, col) = rows.place(idx as u64);
                    e4m3(codes[idx]) * (1 + row / 128 * 3 + col / 128) as f32
                });
                assert!(found.into_iter().eq(wanted), "{rows:?} from {from}");
            }
        }
    }
}
