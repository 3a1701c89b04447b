//! The rows of a pass: new tokens of one or more contexts, cut into chunks that run through a layer together.

use mlx_rs::Array;

use super::CHUNK_TOKENS;
use crate::compute::{Segment, Value};
use crate::kv::KvCache;

/// New tokens of one context in a pass.
#[derive(Debug)]
pub(crate) struct BatchSegment<'a> {
    pub kv: &'a mut KvCache,
    pub ids: &'a [u32],
    /// Number of last tokens whose logits are wanted.
    pub n_logits: usize,
    /// Whether the tokens may be taken back.
    pub is_tentative: bool,
}

/// Hidden states of some rows, `[1, n, hidden]`, and the contexts they belong to.
#[derive(Debug)]
pub(super) struct Chunk {
    pub x: Value,
    pub spans: Vec<Span>,
}

/// Consecutive rows of one context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub segment_idx: usize,
    /// Position of the first row's token in its context.
    pub position: usize,
    /// Index of that token among the segment's new tokens.
    pub start: usize,
    pub n_rows: usize,
}

/// Cuts the rows of segments, each given by its first position and its number of rows, into chunks of [`CHUNK_TOKENS`].
pub(super) fn cut(segments: impl IntoIterator<Item = (usize, usize)>) -> Vec<Vec<Span>> {
    let mut chunks: Vec<Vec<Span>> = Vec::new();
    let mut room = 0;
    for (segment_idx, (position, n_rows)) in segments.into_iter().enumerate() {
        let mut start = 0;
        while start < n_rows {
            if room == 0 {
                chunks.push(Vec::new());
                room = CHUNK_TOKENS;
            }
            let n = room.min(n_rows - start);
            let span = Span { segment_idx, position: position + start, start, n_rows: n };
            chunks.last_mut().expect("pushed").push(span);
            (start, room) = (start + n, room - n);
        }
    }
    chunks
}

/// Returns the segments of a chunk for the layer `layer_idx`.
pub(super) fn layer_segments<'a>(
    batch: &'a mut [BatchSegment<'_>],
    spans: &[Span],
    layer_idx: usize,
) -> Vec<Segment<'a>> {
    let mut all = batch.iter_mut().enumerate();
    let segment = |span: &Span| {
        let found = all.find(|(segment_idx, _)| *segment_idx == span.segment_idx);
        let (_, segment) = found.expect("spans are in the order of segments");
        let kv = &mut segment.kv.layers[layer_idx];
        Segment { kv, position: span.position, n_rows: span.n_rows }
    };
    spans.iter().map(segment).collect()
}

/// Returns the lazy states of a layer in all contexts, which no output depends on.
pub(super) fn lazy_arrays<'a>(
    batch: &'a [BatchSegment<'_>],
    layer_idx: usize,
) -> impl Iterator<Item = &'a Array> {
    batch.iter().flat_map(move |segment| segment.kv.layers[layer_idx].lazy_arrays())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments_share_chunks_and_long_ones_are_cut() {
        let span = |segment_idx, position, start, n_rows| Span { segment_idx, position, start, n_rows };
        assert_eq!(cut([(7, 1), (0, 1)]), [[span(0, 7, 0, 1), span(1, 0, 0, 1)]]);
        assert_eq!(cut([(10, 200)]), [[span(0, 10, 0, 128)], [span(0, 138, 128, 72)]]);
        assert_eq!(cut([]), Vec::<Vec<Span>>::new());
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_chunk_in_order(segments in prop::collection::vec((0_usize..500, 0_usize..300), 0..6)) {
            let chunks = cut(segments.iter().copied());
            let n_rows = |chunk: &Vec<Span>| chunk.iter().map(|span| span.n_rows).sum::<usize>();
            for (idx, chunk) in chunks.iter().enumerate() {
                prop_assert!(n_rows(chunk) == CHUNK_TOKENS || idx + 1 == chunks.len() && n_rows(chunk) > 0);
            }
            let rows = chunks.iter().flatten().flat_map(|span| {
                (0..span.n_rows).map(move |row| (span.segment_idx, span.position + row, span.start + row))
            });
            let wanted = segments.iter().enumerate().flat_map(|(segment_idx, (position, n_rows))| {
                (0..*n_rows).map(move |row| (segment_idx, position + row, row))
            });
            prop_assert!(rows.eq(wanted));
        }
    }
}
