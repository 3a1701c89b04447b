//! Samples of the weights of a checkpoint, for its fingerprint: some bytes of each tensor, and more of large ones.

use flash_io::{Catalog, DIRECT_ALIGN, ShardIdx, Span, Tensor};

/// Checkpoints of up to this size are read whole, which takes no longer than sampling a large one.
pub(super) const WHOLE_BYTES: u64 = 32 << 20;
/// Approximate number of blocks that are read of a large checkpoint, beside the ends of its tensors. With many reads in
/// flight, a disk takes some 10 µs for each.
const BLOCKS: u64 = 2048;
/// Up to this number of tensors, both ends of each are read.
const BOTH_ENDS_MAX: usize = 4096;
/// Bytes of each end of a tensor. Tensors of up to twice this size, such as norms and biases, are read whole.
const END_BYTES: u64 = 8 << 10;
/// Bytes of the one end that is read of each tensor, if there are more than [`BOTH_ENDS_MAX`].
const END_OF_MANY_BYTES: u64 = 2 << 10;
/// Bytes of a sample between the ends: the block size of direct I/O.
const BLOCK_BYTES: u64 = DIRECT_ALIGN as u64;

/// Spans of a checkpoint that its fingerprint covers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Samples {
    /// Disjoint spans, in order of shard and offset.
    pub spans: Vec<(ShardIdx, Span)>,
    /// Whether all bytes of all tensors are covered.
    pub is_complete: bool,
}

impl Samples {
    /// Chooses samples from the headers alone, so that equal headers give equal samples.
    ///
    /// - Up to [`WHOLE_BYTES`] in total: all bytes.
    /// - Otherwise the first and last [`END_BYTES`] of each tensor; with more than [`BOTH_ENDS_MAX`] tensors, the end
    ///   of every other tensor and the start of the next one, which are adjacent.
    /// - In addition blocks at equal distances in each tensor, about one for each of [`BLOCKS`] parts of all bytes.
    pub(super) fn of(catalog: &Catalog) -> Self {
        let total_bytes = catalog.total_bytes();
        let mut tensors: Vec<&Tensor> = catalog.tensors().filter(|tensor| !tensor.span.is_empty()).collect();
        tensors.sort_by_key(|tensor| (tensor.shard, tensor.span));
        let is_complete = total_bytes <= WHOLE_BYTES;
        let spans = if is_complete {
            tensors.iter().map(|tensor| (tensor.shard, tensor.span)).collect()
        } else {
            sample_spans(&tensors, total_bytes)
        };
        Self { spans: merged(spans), is_complete }
    }
}

/// Returns the ends of tensors, and blocks between them.
fn sample_spans(tensors: &[&Tensor], total_bytes: u64) -> Vec<(ShardIdx, Span)> {
    // Ends of adjacent tensors are one read, so a tensor costs one read, or half of one with a single end.
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
            // The middle of each of `n_blocks` equal parts, aligned down to a block of the file.
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

/// Sorts spans, and joins those that touch or overlap.
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
