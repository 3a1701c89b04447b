//! Checkpoints of DeepSeek-V3: floats of eight bits (e4m3), with a factor for each block of a matrix.

use flash_io::{Catalog, Tensor};
use flash_kernels::{FloatType, e4m3};
use serde_json::{Value, json};

use super::parameter::{Piece, Rows, Stored};
use super::{checkpoint, gather};
use crate::error::ConvertError;

/// Rows, and columns, of a block.
const BLOCK: u64 = 128;

/// What numbers times factors are rounded to, as mlx-lm does, before anything else becomes of them.
pub(super) const PRODUCT: FloatType = FloatType::BF16;

/// What the tensor of factors has behind the name of its matrix.
const SCALES: &str = "_scale_inv";

/// The factors of a matrix, which are in memory while it is converted: a number for 16,384.
#[derive(Debug)]
pub(super) struct Scales {
    values: Vec<f32>,
    n_cols: u64,
}

/// Whether `quantization_config` is of this format.
pub(super) fn is_configured(quantization: &Value) -> bool {
    quantization["quant_method"] == "fp8" && quantization["weight_block_size"] == json!([BLOCK, BLOCK])
}

/// Whether a tensor holds factors.
pub(super) fn is_scales(name: &str) -> bool {
    name.ends_with(SCALES)
}

/// The tensor of factors of a matrix, if it has the shape that fits.
pub(super) fn scales_of(catalog: &Catalog, tensor: &Tensor) -> Result<Tensor, ConvertError> {
    let name = format!("{}{SCALES}", tensor.name);
    let Some(scales) = catalog.get(&name) else {
        return Err(ConvertError::MissingTensor { path: checkpoint::path_of(catalog, tensor), tensor: name });
    };
    let wanted: Vec<u64> = tensor.shape.iter().map(|extent| extent.div_ceil(BLOCK)).collect();
    if tensor.shape.len() != 2 || scales.shape != wanted {
        return Err(checkpoint::misshapen(catalog, scales, format!("{wanted:?}, blocks of a matrix")));
    }
    checkpoint::float(catalog, scales)?;
    Ok(scales.clone())
}

impl Scales {
    /// Reads those of a piece, if it is of this format.
    pub(super) fn read(catalog: &Catalog, piece: &Piece) -> Result<Option<Self>, ConvertError> {
        let Stored::Fp8 { scales } = &piece.stored else { return Ok(None) };
        let float = checkpoint::float(catalog, scales)?;
        let all = Piece::whole(scales, Stored::Float(float));
        let n_values = all.n_values() as usize;
        let mut bytes = vec![0; n_values * float.size_bytes()];
        gather::read_whole(catalog, &all, &mut bytes)?;
        let mut values = vec![0.0; n_values];
        float.decode_into(&bytes, &mut values).expect("a slice of the values' length");
        Ok(Some(Self { values, n_cols: all.rows.n_cols }))
    }

    /// The numbers that `codes` are, from `first` of the piece on.
    pub(super) fn decode(&self, rows: Rows, first: u64, codes: &[u8], out: &mut [f32]) {
        let mut place = rows.place(first);
        for (value, code) in out.iter_mut().zip(codes) {
            let (row, col) = place;
            let scale = self.values[(row / BLOCK * self.n_cols + col / BLOCK) as usize];
            *value = PRODUCT.round(e4m3(*code) * scale);
            place = rows.next(place);
        }
    }
}
