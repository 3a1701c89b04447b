//! Which bytes of a checkpoint stand for all of them: some of each tensor, and more of the large ones.

use flash_io::{Catalog, DIRECT_ALIGN, ShardIdx, Span, Tensor};

/// A checkpoint of no more than this is read whole, in bytes: it takes no longer than samples of a large one.
pub(super) const WHOLE_BYTES: u64 = 32 << 20;
/// Blocks that are read of a large checkpoint beside the ends of its tensors, about. A disk takes some 10 µs for each if many are
/// under way.
const BLOCKS: u64 = 2048;
/// The most tensors whose both ends are read.
const BOTH_ENDS_MAX: usize = 4096;
/// Bytes of each end of a tensor: what has no more than two of them, as norms and biases, is read whole.
const END_BYTES: u64 = 8 << 10;
/// The same where tensors are so many that each gets one sample.
const END_OF_MANY_BYTES: u64 = 2 << 10;
/// Bytes of a sample between the ends: a block of direct reads.
const BLOCK_BYTES: u64 = DIRECT_ALIGN as u64;

/// Bytes of a checkpoint that are read to know it again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Samples {
    /// In the order of the shards and their bytes; no two have a byte in common.
    pub spans: Vec<(ShardIdx, Span)>,
    /// Whether no byte of a tensor is left out.
    pub is_complete: bool,
}

impl Samples {
    /// Chooses samples by what the headers say, so that equal headers get equal samples.
    ///
    /// - Up to [`WHOLE_BYTES`] in all: everything.
    /// - Else the first and the last [`END_BYTES`] of each tensor; if there are more than [`BOTH_ENDS_MAX`] tensors, the last
    ///   bytes of one and the first bytes of the next, which lie together.
    /// - And blocks at equal distances in each tensor, one for about each of [`BLOCKS`] parts of all bytes.
    pub(super) fn of(catalog: &Catalog) -> Self {
        let total_bytes = catalog.total_bytes();
        let mut tensors: Vec<&Tensor> = catalog.tensors().filter(|tensor| !tensor.span.is_empty()).collect();
        tensors.sort_by_key(|tensor| (tensor.shard, tensor.span));
        let is_complete = total_bytes <= WHOLE_BYTES;
        let spans = if is_complete {
            tensors.iter().map(|tensor| (tensor.shard, tensor.span)).collect()
        } else {
            sampled(&tensors, total_bytes)
        };
        Self { spans: merged(spans), is_complete }
    }
}

fn sampled(tensors: &[&Tensor], total_bytes: u64) -> Vec<(ShardIdx, Span)> {
    // The ends of neighbours lie together, so a tensor costs a read, and half of one if it has one end.
    let are_many = tensors.len() > BOTH_ENDS_MAX;
    let stride_bytes = total_bytes / BLOCKS;
    let mut spans = Vec::new();
    for (tensor_idx, tensor) in tensors.iter().enumerate() {
        let Span { start, end } = tensor.span;
        let end_bytes = if are_many { END_OF_MANY_BYTES } else { END_BYTES };
        let mut add = |span: Span| spans.push((tensor.shard, span.intersection(&tensor.span)));
        if !are_many || tensor_idx % 2 == 1 {
            add(Span::new(start, start.saturating_add(end_bytes)));
        }
        let n_blocks = (tensor.span.len_bytes() + stride_bytes / 2) / stride_bytes;
        for block_idx in 0..n_blocks {
            // In the middle of each of as many equal parts, moved to where blocks begin in the file.
            let offset = u128::from(tensor.span.len_bytes()) * u128::from(2 * block_idx + 1)
                / u128::from(2 * n_blocks);
            let block = start + offset as u64;
            let block = block - block % BLOCK_BYTES;
            add(Span::new(block, block + BLOCK_BYTES));
        }
        if !are_many || tensor_idx % 2 == 0 {
            add(Span::new(end.saturating_sub(end_bytes), end));
        }
    }
    spans
}

/// Sorts spans, and joins those that overlap.
fn merged(mut spans: Vec<(ShardIdx, Span)>) -> Vec<(ShardIdx, Span)> {
    spans.sort_unstable();
    let mut merged: Vec<(ShardIdx, Span)> = Vec::with_capacity(spans.len());
    for (shard, span) in spans {
        match merged.last_mut() {
            Some((last_shard, last)) if *last_shard == shard && last.touches(&span) => {
                *last = last.hull(&span);
            }
            _ => merged.push((shard, span)),
        }
    }
    merged
}
