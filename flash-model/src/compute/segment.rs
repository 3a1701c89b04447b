//! Segments: the rows of each context in a batch of rows.

use std::ops::Range;

use crate::kv::LayerKv;

/// The rows of one context in a layer's input, and what the layer keeps of the context's earlier tokens.
///
/// Attention and recurrent mixers work on one segment at a time; everything else works on all rows alike.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub kv: &'a mut LayerKv,
    /// Position of the first row's token in the context.
    pub position: usize,
    pub n_rows: usize,
}

/// Returns the rows of each segment, whose numbers of rows are given: consecutive ranges.
pub(crate) fn row_ranges(n_rows: impl IntoIterator<Item = usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    n_rows.into_iter().map(move |n_rows| {
        let rows = start..start + n_rows;
        start = rows.end;
        rows
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_segments_follow_each_other() {
        assert!(row_ranges([2, 0, 3]).eq([0..2, 2..2, 2..5]));
    }
}
