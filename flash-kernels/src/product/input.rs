//! Activations, prepared for the formats of the weights.

use std::sync::Arc;

use smallvec::SmallVec;

use super::ROWS_DIRECT;
use crate::activations::{Exception, FixedRows, FixedVector};
use crate::isa::FloatInput;
use crate::matrix::{AffineStorage, Storage};
use crate::pool::Pool;
use crate::tile::CodeBits;

/// The rows `x` for all formats of some matrices.
pub(super) struct Inputs<'a> {
    float: FloatInput<'a>,
    /// One for each group length and width of codes that there is.
    fixed: SmallVec<[(usize, CodeBits, FixedInput); 1]>,
}

impl<'a> Inputs<'a> {
    /// For `x`: `[m, k]`.
    pub(super) fn new<'w>(
        pool: &Pool,
        x: &'a [f32],
        k: usize,
        weights: impl Iterator<Item = &'w Storage<'w>>,
    ) -> Self {
        let mut fixed: SmallVec<[(usize, CodeBits, FixedInput); 1]> = SmallVec::new();
        for w in weights {
            if let Storage::Affine(w) = w {
                let (group, bits) = (w.group, w.code_bits());
                if !fixed.iter().any(|(other, other_bits, _)| (*other, *other_bits) == (group, bits)) {
                    fixed.push((group, bits, FixedInput::new(pool, x, k, group, bits)));
                }
            }
        }
        Self { float: FloatInput { values: x, k }, fixed }
    }

    /// For products with `w`, one of the matrices that these were made for.
    pub(super) fn of(&self, w: &Storage<'_>) -> Input<'_> {
        match w {
            Storage::Affine(w) => Input::Fixed(self.fixed(w)),
            Storage::Float(_) | Storage::Decoded(_) => Input::Float(self.float),
        }
    }

    fn fixed(&self, w: &AffineStorage<'_>) -> &FixedInput {
        let fits =
            |(group, bits, _): &&(usize, CodeBits, FixedInput)| (*group, *bits) == (w.group, w.code_bits());
        let (.., input) = self.fixed.iter().find(fits).expect("made for this format, too");
        input
    }
}

/// Activations as a product takes them.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    Fixed(&'a FixedInput),
    Float(FloatInput<'a>),
}

/// Activations for affine weights.
pub(super) enum FixedInput {
    /// Up to [`ROWS_DIRECT`].
    Few(Vec<Arc<FixedVector>>),
    Many(FixedRows),
}

impl FixedInput {
    fn new(pool: &Pool, x: &[f32], k: usize, group: usize, bits: CodeBits) -> Self {
        if x.len() <= ROWS_DIRECT * k {
            // Rows without columns are empty, and there is nothing to prepare.
            let rows = x.chunks_exact(k.max(1));
            Self::Few(rows.map(|x| Arc::new(FixedVector::new(pool.kernels(), x, group, bits))).collect())
        } else {
            Self::Many(FixedRows::new(pool, x, k, group, bits))
        }
    }

    pub(super) fn exceptions(&self) -> impl Iterator<Item = Exception> {
        let (few, many) = match self {
            Self::Few(rows) => (rows.as_slice(), &[][..]),
            Self::Many(rows) => (&[][..], rows.exceptions.as_slice()),
        };
        let of_row = |(row_idx, row): (usize, &Arc<FixedVector>)| {
            let found = row.exceptions.clone();
            found.into_iter().map(move |exception| Exception { row_idx, ..exception })
        };
        few.iter().enumerate().flat_map(of_row).chain(many.iter().copied())
    }
}
