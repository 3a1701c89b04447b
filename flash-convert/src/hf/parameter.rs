//! Parameters of a model and the tensors of a checkpoint that they are made from.

use flash_io::Tensor;
use flash_kernels::{Affine, FloatType};

use super::int4;

/// A parameter of the model.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    /// Shape of the values, before packing.
    pub(super) shape: Vec<u64>,
    pub(super) content: Content,
}

/// Contents of a parameter.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Values of the pieces, concatenated and rounded to `float`.
    Floats { float: FloatType, pieces: Vec<Piece> },
    /// Codes and scales of mxfp4, which are copied.
    Mxfp4(Box<[Piece; 2]>),
    /// 4-bit codes of the pieces, which are concatenated and copied; scales are rounded to `float`, and biases derived
    /// from them (`int4.rs`).
    Int4 { float: FloatType, pieces: Vec<Piece> },
}

/// Values of a tensor that are contiguous in a parameter.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) tensor: Tensor,
    pub(super) encoding: Encoding,
    pub(super) rows: Rows,
}

/// Encoding of the values of a tensor.
#[derive(Debug, Clone)]
pub(super) enum Encoding {
    Float(FloatType),
    /// Norm weights minus 1; the 1 is added back and the sum rounded to the same type.
    ZeroCentered(FloatType),
    /// e4m3 values with a scale for each block of the matrix (`fp8.rs`).
    Fp8 {
        scales: Tensor,
    },
    /// Words of 4-bit codes with a scale for each group (`int4.rs`).
    Int4 {
        scales: Tensor,
    },
    /// Opaque bytes.
    Bytes,
}

/// Strided rows of a tensor viewed as a matrix: `first`, `first + step`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) step: u64,
    pub(super) n_cols: u64,
    /// Whether the rows become columns of the parameter.
    pub(super) is_transposed: bool,
}

impl Parameter {
    /// Returns whether the rows are a whole number of groups, so that the parameter can be quantized.
    pub(super) fn is_quantizable(&self, affine: Affine) -> bool {
        self.shape.len() > 1
            && self.shape.last().is_some_and(|n_cols| n_cols.is_multiple_of(affine.group_size() as u64))
    }

    /// Returns whether the parameter is already quantized and keeps its format.
    pub(super) const fn is_prequantized(&self) -> bool {
        matches!(self.content, Content::Mxfp4(_) | Content::Int4 { .. })
    }
}

impl Content {
    /// Returns the shape of the values of a tensor with the shape `stored`.
    pub(super) fn shape(&self, stored: &[u64]) -> Vec<u64> {
        let mut shape = stored.to_vec();
        if let (Self::Int4 { .. }, Some(n_words)) = (self, shape.last_mut()) {
            *n_words *= u64::from(u32::BITS / int4::BITS);
        }
        shape
    }
}

impl Piece {
    /// Returns a whole tensor as one piece.
    pub(super) fn whole(tensor: &Tensor, encoding: Encoding) -> Self {
        let (n_cols, outer) = tensor.shape.split_last().unwrap_or((&1, &[]));
        let count = outer.iter().product();
        let rows = Rows { first: 0, count, step: 1, n_cols: *n_cols, is_transposed: false };
        Self { tensor: tensor.clone(), encoding, rows }
    }

    /// Returns the number of stored values.
    pub(super) fn n_values(&self) -> u64 {
        self.rows.count * self.rows.n_cols
    }
}

impl Encoding {
    /// Returns the size of a stored value in bytes.
    pub(super) const fn size_bytes(&self) -> usize {
        match self {
            Self::Float(float) | Self::ZeroCentered(float) => float.size_bytes(),
            Self::Fp8 { .. } | Self::Bytes => 1,
            Self::Int4 { .. } => size_of::<u32>(),
        }
    }
}

impl Rows {
    /// Returns the row and column of value `value_idx` of the piece in the matrix.
    pub(super) const fn place(&self, value_idx: u64) -> (u64, u64) {
        let (idx, col) = if self.is_transposed {
            (value_idx % self.count, value_idx / self.count)
        } else {
            (value_idx / self.n_cols, value_idx % self.n_cols)
        };
        (self.first + idx * self.step, col)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_ordered_by_rows_or_by_columns() {
        for (is_transposed, second) in [(false, (3, 1)), (true, (5, 0))] {
            let rows = Rows { first: 3, count: 4, step: 2, n_cols: 5, is_transposed };
            assert_eq!([0, 1, 19].map(|value_idx| rows.place(value_idx)), [(3, 0), second, (9, 4)]);
        }
    }
}
