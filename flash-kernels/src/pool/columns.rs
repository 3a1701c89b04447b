use std::marker::PhantomData;
use std::ops::Range;

use super::Pool;

/// A range of columns of a row-major matrix, as one part of a job owns it.
pub(crate) struct Columns<'a> {
    /// The first element of the matrix.
    base: *mut f32,
    n_rows: usize,
    row_len: usize,
    range: Range<usize>,
    matrix: PhantomData<&'a mut [f32]>,
}

impl Columns<'_> {
    /// Which columns of the matrix these are.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// This range of the row `row_idx`.
    pub(crate) fn row_mut(&mut self, row_idx: usize) -> &mut [f32] {
        assert!(row_idx < self.n_rows, "row {row_idx} of {}", self.n_rows);
        #[expect(unsafe_code, reason = "threads own ranges of columns, which no slice can express")]
        // SAFETY: the row lies within the matrix that `for_columns` borrows mutably, the range within the row, no
        // other part has columns of this range, and `&mut self` keeps other rows of this part from being lent out.
        unsafe {
            let start = self.base.add(row_idx * self.row_len + self.range.start);
            std::slice::from_raw_parts_mut(start, self.range.len())
        }
    }
}

/// The address of a matrix, for all threads.
struct Base(*mut f32);

#[expect(unsafe_code, reason = "threads own ranges of columns, which no slice can express")]
// SAFETY: only `Columns` uses the pointer, and no two of them reach the same element.
unsafe impl Sync for Base {}

impl Base {
    /// A method, so that a closure captures the whole and not the pointer, which threads may not share.
    fn get(&self) -> *mut f32 {
        self.0
    }
}

impl Pool {
    /// Cuts a row-major `matrix` with rows of `row_len` into ranges of `width` columns (the last may have fewer),
    /// and calls `part` once with each, on all threads.
    ///
    /// # Panics
    /// If the matrix is no whole rows, or if a part panics.
    pub(crate) fn for_columns(
        &self,
        matrix: &mut [f32],
        row_len: usize,
        width: usize,
        part: impl Fn(Columns<'_>) + Sync,
    ) {
        if matrix.is_empty() {
            return;
        }
        assert!(matrix.len().is_multiple_of(row_len), "{} elements, rows of {row_len}", matrix.len());
        let n_rows = matrix.len() / row_len;
        let base = Base(matrix.as_mut_ptr());
        self.run(row_len.div_ceil(width), &|part_idx| {
            let start = part_idx * width;
            let range = start..row_len.min(start + width);
            part(Columns { base: base.get(), n_rows, row_len, range, matrix: PhantomData });
        });
    }
}
