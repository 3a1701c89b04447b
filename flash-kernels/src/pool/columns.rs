use std::marker::PhantomData;
use std::ops::Range;

use smallvec::SmallVec;

use super::Pool;

/// Matrices per job that are stored inline, without allocation.
pub(crate) const INLINE_MATRICES: usize = 4;

/// Columns of some rows of a row-major matrix, owned by one part of a job.
pub(crate) struct Columns<'a> {
    /// First element of the matrix.
    base: *mut f32,
    rows: RowSet<'a>,
    row_len: usize,
    range: Range<usize>,
    matrix: PhantomData<&'a mut [f32]>,
}

/// Rows within the bounds of a matrix.
#[derive(Clone, Copy)]
enum RowSet<'a> {
    /// The first rows, this many.
    First(usize),
    Listed(&'a [usize]),
}

/// A row-major matrix with rows of `row_len`, to be split into ranges of `width` columns; the last may be narrower.
#[derive(Debug)]
pub(crate) struct ColumnSplit<'a> {
    pub(crate) matrix: &'a mut [f32],
    pub(crate) row_len: usize,
    pub(crate) width: usize,
}

/// A set of rows, whose columns are split into parts of `width`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Band<'a> {
    pub(crate) rows: &'a [usize],
    pub(crate) width: usize,
}

impl Columns<'_> {
    /// Range of columns in the matrix.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Returns these columns of the `idx`-th row of the set.
    pub(crate) fn row_mut(&mut self, idx: usize) -> &mut [f32] {
        let row_idx = match self.rows {
            RowSet::First(n_rows) => {
                assert!(idx < n_rows, "row {idx} of {n_rows}");
                idx
            }
            RowSet::Listed(rows) => rows[idx],
        };
        #[expect(unsafe_code, reason = "threads own ranges of columns, which no slice can express")]
        // SAFETY: the row lies within the matrix that the method of `Pool` borrows mutably, the range within the row,
        // no other part has these columns of this row, and `&mut self` keeps other rows of this part from being lent
        // out.
        unsafe {
            let start = self.base.add(row_idx * self.row_len + self.range.start);
            std::slice::from_raw_parts_mut(start, self.range.len())
        }
    }
}

/// Address of a matrix, shared by all threads.
struct Base(*mut f32);

#[expect(unsafe_code, reason = "threads own ranges of columns, which no slice can express")]
// SAFETY: only `Columns` uses the pointer, and no two of them reach the same element.
unsafe impl Sync for Base {}

impl Base {
    /// Returns the pointer. As a method, it makes closures capture `Base`, which is `Sync`, rather than the pointer,
    /// which is not.
    fn get(&self) -> *mut f32 {
        self.0
    }
}

impl Pool {
    /// Splits a row-major `matrix` with rows of `row_len` into ranges of `width` columns (the last may be narrower) and
    /// calls `part` once with each, on all threads.
    ///
    /// # Panics
    /// If the matrix is not whole rows, or if a part panics.
    pub(crate) fn for_columns(
        &self,
        matrix: &mut [f32],
        row_len: usize,
        width: usize,
        part: impl Fn(Columns<'_>) + Sync,
    ) {
        self.for_matrices(&mut [ColumnSplit { matrix, row_len, width }], |_, columns| part(columns));
    }

    /// Splits several matrices by columns in one job: `part` gets the index of the matrix and its columns.
    ///
    /// # Panics
    /// See [`for_columns`](Self::for_columns).
    pub(crate) fn for_matrices(
        &self,
        splits: &mut [ColumnSplit<'_>],
        part: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        let n_parts = |split: &ColumnSplit<'_>| {
            if split.matrix.is_empty() { 0 } else { split.row_len.div_ceil(split.width) }
        };
        let (starts, n_parts) = starts(splits.iter().map(n_parts));
        let splits: SmallVec<[(Base, usize, usize, usize); INLINE_MATRICES]> = splits
            .iter_mut()
            .map(|ColumnSplit { matrix, row_len, width }| {
                let n_rows = if matrix.is_empty() { 0 } else { n_rows(matrix, *row_len) };
                (Base(matrix.as_mut_ptr()), n_rows, *row_len, *width)
            })
            .collect();
        self.run(n_parts, &|part_idx| {
            let idx = starts.partition_point(|start| *start <= part_idx) - 1;
            let (ref base, n_rows, row_len, width) = splits[idx];
            let start = (part_idx - starts[idx]) * width;
            let (range, rows) = (start..row_len.min(start + width), RowSet::First(n_rows));
            part(idx, Columns { base: base.get(), rows, row_len, range, matrix: PhantomData });
        });
    }

    /// Splits several sets of rows by columns in one job: `part` gets the index of the band and the columns of its
    /// rows.
    ///
    /// # Panics
    /// Same as [`for_columns`](Self::for_columns), and if a row is out of bounds or in two bands.
    pub(crate) fn for_bands(
        &self,
        matrix: &mut [f32],
        row_len: usize,
        bands: &[Band<'_>],
        part: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        let mut is_taken = vec![false; n_rows(matrix, row_len)];
        for row_idx in bands.iter().flat_map(|band| band.rows) {
            assert!(!is_taken[*row_idx], "row {row_idx} is in two bands");
            is_taken[*row_idx] = true;
        }
        let (starts, n_parts) = starts(bands.iter().map(|band| row_len.div_ceil(band.width)));
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

/// Returns the index of the first part of each item, and the number of all parts.
fn starts(n_parts: impl Iterator<Item = usize>) -> (SmallVec<[usize; INLINE_MATRICES]>, usize) {
    let mut all = 0;
    let mut starts = SmallVec::new();
    for n_parts in n_parts {
        starts.push(all);
        all += n_parts;
    }
    (starts, all)
}

fn n_rows(matrix: &[f32], row_len: usize) -> usize {
    assert!(matrix.len().is_multiple_of(row_len), "{} elements, rows of {row_len}", matrix.len());
    matrix.len() / row_len
}
