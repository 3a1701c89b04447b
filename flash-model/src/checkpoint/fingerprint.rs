//! Fingerprint of the weights of a checkpoint: a hash of samples, and the identity of its files.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use flash_io::{
    Budget, BundleLayout, Catalog, DIRECT_ALIGN, PageBuf, Reader, ReaderConfig, ShardIdx, SlotPool, Span,
    Tensor, Ticket,
};
use flash_kv::{Digest, FileStamp, SampledWeights, WeightFile};

use super::samples::Samples;
use crate::ModelError;

/// Key derivation context of the hash. Change it whenever the sampling changes.
const CONTEXT: &str = "flash-model sampled weights 1";
/// Reads in flight: samples are short, so throughput depends on a deep queue.
const DEPTH: usize = 32;
/// Maximum size of a read.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of samples that are read into one buffer.
const BATCH_BYTES: u64 = 1 << 20;
/// Buffers: one is hashed while the other is read.
const N_BATCHES: usize = 2;
/// Directory of the Hugging Face cache whose files are named by their SHA-256.
const BLOBS_DIR: &str = "blobs";

/// Returns a hash of the headers and the sampled weights of a checkpoint.
///
/// # Errors
/// [`ModelError::Io`] if a sample cannot be read.
pub(super) fn sampled_weights(catalog: &Catalog) -> Result<SampledWeights, ModelError> {
    let Samples { spans, is_complete } = Samples::of(catalog);
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hash_headers(catalog, &mut hasher);
    hash_spans(catalog, spans, &mut hasher)?;
    Ok(SampledWeights { digest: Digest(*hasher.finalize().as_bytes()), is_complete })
}

fn hash_headers(catalog: &Catalog, hasher: &mut blake3::Hasher) {
    let mut bytes = Vec::new();
    let put_text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    let put_numbers = |bytes: &mut Vec<u8>, numbers: &[u64]| {
        bytes.extend_from_slice(&(numbers.len() as u64).to_le_bytes());
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    };
    for Tensor { name, dtype, shape, span, shard } in catalog.tensors() {
        put_text(&mut bytes, name);
        put_text(&mut bytes, &dtype.to_string());
        put_numbers(&mut bytes, shape);
        put_numbers(&mut bytes, &[shard.0 as u64, span.start, span.end]);
    }
    // The metadata has the layout of packed experts.
    for (key, value) in catalog.metadata() {
        put_text(&mut bytes, key);
        put_text(&mut bytes, value);
    }
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
}

/// Hashes the bytes of the spans in order, reading ahead of the hash.
fn hash_spans(
    catalog: &Catalog,
    spans: Vec<(ShardIdx, Span)>,
    hasher: &mut blake3::Hasher,
) -> Result<(), ModelError> {
    let batches = batches(spans);
    let slot_bytes = batches.iter().map(|batch| batch.layout.slot_bytes()).max().unwrap_or(0);
    if slot_bytes == 0 {
        return Ok(());
    }
    let config = ReaderConfig { depth: DEPTH, chunk_bytes: CHUNK_BYTES, ..ReaderConfig::default() };
    let reader = Reader::new(catalog.shards().to_vec(), config)?;
    // A budget of its own: these buffers are small, short-lived, and mostly needed before an engine has a budget.
    let budget = Budget::new(PageBuf::cost_bytes(slot_bytes) * N_BATCHES as u64);
    let pool = SlotPool::new(&budget, slot_bytes, N_BATCHES)?;
    let mut reading: VecDeque<(Batch, Ticket)> = VecDeque::with_capacity(N_BATCHES);
    let mut batches = batches.into_iter();
    // BLAKE3 hashes one large input twice as fast as many small ones.
    let mut together = Vec::new();
    loop {
        while let Some(slot) = pool.try_acquire() {
            let Some(batch) = batches.next() else { break };
            let ticket = reader.submit(&batch.layout, slot);
            reading.push_back((batch, ticket));
        }
        let Some((batch, ticket)) = reading.pop_front() else { return Ok(()) };
        let slot = ticket.wait()?;
        together.clear();
        for (i, len_bytes) in batch.lens.iter().enumerate() {
            together.extend_from_slice(&slot[batch.layout.tensor_offset(i)..][..*len_bytes]);
        }
        hasher.update(&together);
    }
}

/// Spans that are read into one buffer.
struct Batch {
    layout: Arc<BundleLayout>,
    /// Length of each span.
    lens: Vec<usize>,
}

/// Splits spans into batches of at most [`BATCH_BYTES`].
fn batches(spans: Vec<(ShardIdx, Span)>) -> Vec<Batch> {
    let pieces = spans
        .into_iter()
        .flat_map(|(shard, span)| span.chunks(BATCH_BYTES / 2).map(move |piece| (shard, piece)));
    let mut batches = Vec::new();
    let mut batch: Vec<(ShardIdx, Span)> = Vec::new();
    let mut batch_bytes = 0;
    let finish = |batch: &mut Vec<(ShardIdx, Span)>| {
        let lens = batch.iter().map(|(_, span)| span.len_bytes() as usize).collect();
        let layout = Arc::new(BundleLayout::new(batch));
        batch.clear();
        Batch { layout, lens }
    };
    for (shard, piece) in pieces {
        let bytes = piece.align_outward(DIRECT_ALIGN as u64).len_bytes();
        if batch_bytes + bytes > BATCH_BYTES && !batch.is_empty() {
            batches.push(finish(&mut batch));
            batch_bytes = 0;
        }
        batch.push((shard, piece));
        batch_bytes += bytes;
    }
    if !batch.is_empty() {
        batches.push(finish(&mut batch));
    }
    batches
}

/// Returns the identity of each shard without reading it; `None` if the storage of a shard is not a file.
///
/// # Errors
/// [`ModelError::File`] if the metadata of a file cannot be read.
pub(super) fn weight_files(catalog: &Catalog) -> Result<Option<Vec<WeightFile>>, ModelError> {
    let mut files = Vec::with_capacity(catalog.shards().len());
    for shard in catalog.shards() {
        let unknown = |error: io::Error| ModelError::File { path: shard.path.clone(), error };
        let Some(metadata) = shard.storage.file_metadata().map_err(unknown)? else { return Ok(None) };
        let stamp = FileStamp::new(&metadata);
        let sha256 = hash_in_name(&shard.path).filter(|(_, named)| {
            // The name may refer to another file since this one was opened.
            (named.device, named.inode) == (stamp.device, stamp.inode)
        });
        files.push(WeightFile { stamp, sha256: sha256.map(|(sha256, _)| sha256) });
    }
    Ok(Some(files))
}

/// Returns the SHA-256 that names a file in the Hugging Face cache, where links lead to files named by hash, and the
/// stamp of that file.
fn hash_in_name(path: &Path) -> Option<(Digest, FileStamp)> {
    let target = fs::canonicalize(path).ok()?;
    if target.parent()?.file_name()? != BLOBS_DIR {
        return None;
    }
    let sha256 = Digest::from_hex(target.file_name()?.to_str()?)?;
    let stamp = FileStamp::new(&fs::metadata(&target).ok()?);
    Some((sha256, stamp))
}

#[cfg(test)]
mod tests;
