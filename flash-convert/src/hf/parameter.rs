//! Parameters of a model, and which numbers of a checkpoint they are made of.

use flash_io::Tensor;
use flash_kernels::{Affine, FloatType};

use super::int4;

/// A parameter of the model, and what it is made of.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    /// Of its values.
    pub(super) shape: Vec<u64>,
    pub(super) content: Content,
}

/// What a parameter holds.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Numbers, those of one piece behind those of the other, rounded to `float`.
    Floats { float: FloatType, pieces: Vec<Piece> },
    /// Codes and scales of mxfp4, which stay what they are.
    Mxfp4(Box<[Piece; 2]>),
    /// Codes of four bits, which stay what they are, those of one piece behind those of the other; scales are rounded to
    /// `float`, and biases made of them: `int4.rs`.
    Int4 { float: FloatType, pieces: Vec<Piece> },
}

/// Numbers of a tensor that follow each other in a parameter.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) tensor: Tensor,
    pub(super) stored: Stored,
    pub(super) rows: Rows,
}

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Float(FloatType),
    /// Floats that are one more in the parameter: that is rounded to the same type.
    AroundZero(FloatType),
    /// Floats of eight bits (e4m3), with a factor for each block of the matrix: `fp8.rs`.
    Fp8 {
        scales: Tensor,
    },
    /// Words of codes of four bits, with a scale for each group: `int4.rs`.
    Int4 {
        scales: Tensor,
    },
    /// Bytes that are not looked into.
    Bytes,
}

/// Rows of a tensor, if it is taken as a matrix: `first`, the one `step` behind it, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) step: u64,
    pub(super) n_cols: u64,
    /// Whether they are columns in the parameter.
    pub(super) is_transposed: bool,
}

impl Parameter {
    /// Whether its rows are whole groups.
    pub(super) fn is_matrix(&self, affine: Affine) -> bool {
        self.shape.len() > 1
            && self.shape.last().is_some_and(|n_cols| n_cols.is_multiple_of(affine.group_size() as u64))
    }

    /// Whether it stays as it was quantised.
    pub(super) const fn is_packed(&self) -> bool {
        matches!(self.content, Content::Mxfp4(_) | Content::Int4 { .. })
    }
}

impl Content {
    /// The shape of the values of a tensor that has this one.
    pub(super) fn shape(&self, stored: &[u64]) -> Vec<u64> {
        let mut shape = stored.to_vec();
        if let (Self::Int4 { .. }, Some(n_words)) = (self, shape.last_mut()) {
            *n_words *= u64::from(u32::BITS / int4::BITS);
        }
        shape
    }
}

impl Piece {
    /// All of a tensor.
    pub(super) fn whole(tensor: &Tensor, stored: Stored) -> Self {
        let (n_cols, outer) = tensor.shape.split_last().unwrap_or((&1, &[]));
        let count = outer.iter().product();
        let rows = Rows { first: 0, count, step: 1, n_cols: *n_cols, is_transposed: false };
        Self { tensor: tensor.clone(), stored, rows }
    }

    /// How many numbers it has.
    pub(super) fn n_values(&self) -> u64 {
        self.rows.count * self.rows.n_cols
    }
}

impl Stored {
    /// Bytes of a number.
    pub(super) const fn size_bytes(&self) -> usize {
        match self {
            Self::Float(float) | Self::AroundZero(float) => float.size_bytes(),
            Self::Fp8 { .. } | Self::Bytes => 1,
            Self::Int4 { .. } => size_of::<u32>(),
        }
    }
}

impl Rows {
    /// Where the number `value_idx` of the piece stands in the matrix: row and column.
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
    fn numbers_stand_in_rows_or_in_columns() {
        for (is_transposed, second) in [(false, (3, 1)), (true, (5, 0))] {
            let rows = Rows { first: 3, count: 4, step: 2, n_cols: 5, is_transposed };
            assert_eq!([0, 1, 19].map(|value_idx| rows.place(value_idx)), [(3, 0), second, (9, 4)]);
        }
    }
}
