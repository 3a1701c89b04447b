//! Activations prepared for the formats of the weights.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::activations::{Exception, FixedRows, FixedVector, residuals};
use crate::buffer::Buffer;
use crate::elementwise::part_width;
use crate::isa::FloatInput;
use crate::matrix::{AffineStorage, Storage};
use crate::pool::Pool;
use crate::tile::CodeBits;

/// Values below which one thread converts all rows: they take about as long as waking another thread.
const PARALLEL_MIN: usize = 8 << 10;

/// Prepared activations for the formats of several matrices.
pub(super) struct Inputs<'a> {
    float: FloatInput<'a>,
    /// One entry per distinct format.
    fixed: SmallVec<[(FixedFormat, FixedInput); 1]>,
}

/// Fixed-point format of activations for affine weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FixedFormat {
    pub group: usize,
    pub bits: CodeBits,
    /// Whether each row has a residual row as well, for 30-bit activations.
    pub is_wide: bool,
}

impl FixedFormat {
    pub(super) fn of(w: &AffineStorage<'_>) -> Self {
        Self { group: w.group, bits: w.code_bits(), is_wide: w.is_wide }
    }

    /// Rows multiplied for `m` rows of activations.
    pub(super) fn rows(self, m: usize) -> usize {
        if self.is_wide { 2 * m } else { m }
    }
}

impl<'a> Inputs<'a> {
    /// Prepares `x`, `[m, k]`, for `weights`.
    pub(super) fn new<'w>(
        pool: &Pool,
        x: &'a [f32],
        k: usize,
        weights: impl Iterator<Item = &'w Storage<'w>>,
    ) -> Self {
        let mut fixed: SmallVec<[(FixedFormat, FixedInput); 1]> = SmallVec::new();
        for w in weights {
            if let Storage::Affine(w) = w {
                let format = FixedFormat::of(w);
                if !fixed.iter().any(|(other, _)| *other == format) {
                    fixed.push((format, FixedInput::new(pool, x, k, format)));
                }
            }
        }
        Self { float: FloatInput { values: x, k }, fixed }
    }

    /// Returns the activations for `w`, one of the matrices given to [`new`](Self::new).
    pub(super) fn of(&self, w: &Storage<'_>) -> Input<'_> {
        match w {
            Storage::Affine(w) => Input::Fixed(self.fixed(w)),
            Storage::Float(_) | Storage::Decoded(_) => Input::Float(self.float),
        }
    }

    fn fixed(&self, w: &AffineStorage<'_>) -> &FixedInput {
        let fits = |(format, _): &&(FixedFormat, FixedInput)| *format == FixedFormat::of(w);
        let (_, input) = self.fixed.iter().find(fits).expect("prepared for this format");
        input
    }
}

/// Prepared activations of one product.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    Fixed(&'a FixedInput),
    Float(FloatInput<'a>),
}

/// Activations for affine weights.
pub(super) enum FixedInput {
    /// Up to [`rows_direct`](crate::isa::Kernels::rows_direct) rows.
    Few(Vec<Arc<FixedVector>>),
    Many(FixedRows),
}

impl FixedInput {
    /// Converts `x`, `[m, k]`. If wide, the rounded rows come first, then their residuals.
    fn new(pool: &Pool, x: &[f32], k: usize, format: FixedFormat) -> Self {
        if format.is_wide {
            let mut both = Buffer::new(2 * x.len());
            let (values, residual) = both.split_at_mut(x.len());
            values.copy_from_slice(x);
            compute_residuals(pool, x, k, format.group, residual);
            return Self::new(pool, &both, k, FixedFormat { is_wide: false, ..format });
        }
        let FixedFormat { group, bits, .. } = format;
        if x.len() <= pool.kernels().rows_direct * k {
            // With `k` = 0, rows are empty and there is nothing to prepare.
            let rows: SmallVec<[&[f32]; 16]> = x.chunks_exact(k.max(1)).collect();
            let vector = |idx: usize| Arc::new(FixedVector::new(pool.kernels(), rows[idx], group, bits));
            Self::Few(if x.len() < PARALLEL_MIN {
                (0..rows.len()).map(vector).collect()
            } else {
                pool.map(rows.len(), vector)
            })
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

/// Sets `residual` to the residual of the fixed-point representation of each row of `x`, `[m, k]`.
pub(super) fn compute_residuals(pool: &Pool, x: &[f32], k: usize, group: usize, residual: &mut [f32]) {
    let (len, width) = (residual.len(), part_width(pool, residual.len(), k.max(1)));
    pool.for_columns(residual, len, width, |mut part| {
        residuals(pool.kernels(), &x[part.range()], group, part.row_mut(0));
    });
}
