//! Operations that work on one segment at a time.

use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, ops};

use crate::compute::arrays::positions;
use crate::compute::{Segment, row_ranges};

/// Rows of a segment.
#[derive(Debug)]
pub(super) struct Rows {
    range: Range<usize>,
    /// Whether they are all rows.
    is_all: bool,
}

impl Rows {
    /// Returns these rows of `x`, `[1, n, …]`.
    pub(super) fn of(&self, x: &Array) -> Result<Array, Exception> {
        if self.is_all { Ok(x.clone()) } else { positions(x, self.range.start, self.range.end) }
    }
}

/// Calls `compute` for each segment with its rows, and concatenates the results, each `[1, n, …]`.
pub(super) fn by_segment(
    segments: &mut [Segment<'_>],
    mut compute: impl FnMut(&Rows, &mut Segment<'_>) -> Result<Array, Exception>,
) -> Result<Array, Exception> {
    let is_all = segments.len() == 1;
    let ranges: Vec<_> = row_ranges(segments.iter().map(|segment| segment.n_rows)).collect();
    let mut outputs = Vec::with_capacity(segments.len());
    for (segment, range) in segments.iter_mut().zip(ranges) {
        outputs.push(compute(&Rows { range, is_all }, segment)?);
    }
    match outputs.pop() {
        Some(output) if is_all => Ok(output),
        last => ops::concatenate(&outputs.into_iter().chain(last).collect::<Vec<_>>(), 1),
    }
}
