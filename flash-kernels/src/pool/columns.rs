use std::marker::PhantomData;
use std::ops::Range;

use super::Pool;

/// Some columns of some rows of a row-major matrix, as one part of a job owns them.
pub(crate) struct Columns<'a> {
    /// The first element of the matrix.
    base: *mut f32,
    rows: RowSet<'a>,
    row_len: usize,
    range: Range<usize>,
    matrix: PhantomData<&'a mut [f32]>,
}

/// Rows of a matrix, all of which it has.
#[derive(Clone, Copy)]
enum RowSet<'a> {
    /// As many from the first on.
    First(usize),
    Listed(&'a [usize]),
}

/// Rows of a matrix whose columns are cut into parts of `width`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Band<'a> {
    pub(crate) rows: &'a [usize],
    pub(crate) width: usize,
}

impl Columns<'_> {
    /// Which columns of the matrix these are.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// These columns of the `idx`-th of the rows.
    pub(crate) fn row_mut(&mut self, idx: usize) -> &mut [f32] {
        let row_idx = match self.rows {
            RowSet::First(n_rows) => {
                assert!(idx < n_rows, "row {idx} of {n_rows}");
                idx
            }
            RowSet::Listed(rows) => rows[idx],
        };
        #[expect(unsafe_code, reason = "threads own ranges of columns, which no slice can express")]
        // SAFETY: the row lies within the matrix that the method of `Pool` borrows mutably, the range within the row, no
        // other part has these columns of this row, and `&mut self` keeps other rows of this part from being lent out.
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
        let rows = RowSet::First(n_rows(matrix, row_len));
        let base = Base(matrix.as_mut_ptr());
        self.run(row_len.div_ceil(width), &|part_idx| {
            let start = part_idx * width;
            let range = start..row_len.min(start + width);
            part(Columns { base: base.get(), rows, row_len, range, matrix: PhantomData });
        });
    }

    /// The same for several sets of rows in one job: `part` gets the index of the band and the columns of its rows.
    ///
    /// # Panics
    /// As [`for_columns`](Self::for_columns), and if a row is none of the matrix or is in two bands.
    pub(crate) fn for_bands(
        &self,
        matrix: &mut [f32],
        row_len: usize,
        bands: &[Band<'_>],
        part: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        let mut is_taken = vec![false; n_rows(matrix, row_len)];
        for row_idx in bands.iter().flat_map(|band| band.rows) {
            assert!(!is_taken[*row_idx], "row {row_idx} twice");
            is_taken[*row_idx] = true;
        }
        let mut n_parts = 0;
        let starts: Vec<usize> = bands
            .iter()
            .map(|band| {
                let start = n_parts;
                n_parts += row_len.div_ceil(band.width);
                start
            })
            .collect();
        let base = Base(matrix.as_mut_ptr());
        self.run(n_parts, &|part_idx| {
            let band_idx = starts.partition_point(|start| *start <= part_idx) - 1;
            let Band { rows, width } = bands[band_idx];
            let start = (part_idx - starts[band_idx]) * width;
            let range = start..row_len.min(start + width);
            let rows = RowSet::Listed(rows);
            part(band_idx, Columns { base: base.get(), rows, row_len, range, matrix: PhantomData });
        });
    }
}

fn n_rows(matrix: &[f32], row_len: usize) -> usize {
    assert!(matrix.len().is_multiple_of(row_len), "{} elements, rows of {row_len}", matrix.len());
    matrix.len() / row_len
}
