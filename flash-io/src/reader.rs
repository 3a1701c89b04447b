//! Threads that read bundles into slots.

mod fill;
mod gate;
#[cfg(target_os = "macos")]
mod qos;
mod stats;
mod ticket;
mod transfer;
mod worker;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::Sender;

use self::fill::Origin;
use self::gate::Gate;
use self::stats::Counters;
use self::transfer::Retry;
use self::worker::Chunk;
use crate::catalog::{Shard, ShardIdx};
use crate::error::IoError;
use crate::layout::{BundleLayout, Extent};
use crate::pool::Slot;
use crate::span::Span;
use crate::storage::{AlignedBuf, DIRECT_ALIGN, ReadAt};

pub use stats::Stats;
pub use ticket::Ticket;
pub use worker::Pace;

/// How a [`Reader`] reads.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// How many threads read, and so how many reads the device has at once. One thread leaves half of an
    /// SSD unused.
    pub threads: usize,
    /// Bytes of one read call, rounded up to a multiple of [`DIRECT_ALIGN`].
    pub chunk_bytes: usize,
    /// How often a chunk's read is repeated after it failed or came short; 0 for never.
    pub max_retries: u32,
    /// The pause before the first repetition after a read that brought nothing; it doubles each time, up to
    /// a second.
    pub retry_backoff: Duration,
    /// Decides when chunks may be read; `None` reads as fast as the device can.
    pub pacer: Option<Arc<dyn Pace>>,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            threads: 8,
            chunk_bytes: 1 << 20,
            max_retries: 4,
            retry_backoff: Duration::from_millis(2),
            pacer: None,
        }
    }
}

/// Reads bundles of a fixed set of shards.
///
/// Bundles are read in the order in which they were submitted, each by as many threads as it has chunks.
/// Dropping the reader waits for the reads under way; tickets that are not done then end with
/// [`IoError::ReaderClosed`].
#[derive(Debug)]
pub struct Reader {
    sources: Vec<Source>,
    chunk_bytes: usize,
    retry: Arc<Retry>,
    /// `None` only while it is being dropped.
    queue: Option<Sender<Chunk>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Source {
    path: Arc<Path>,
    storage: Arc<dyn ReadAt>,
}

impl Reader {
    /// Starts the threads. [`ShardIdx`] counts `shards` as they are given.
    ///
    /// # Errors
    /// [`IoError::Spawn`] if the system gives no thread.
    ///
    /// # Panics
    /// If the configuration has no thread or no byte in a chunk, or a storage asks for more alignment than
    /// [`DIRECT_ALIGN`], which [`open`](crate::open) never returns.
    pub fn new(shards: Vec<Shard>, config: ReaderConfig) -> Result<Self, IoError> {
        let ReaderConfig { threads: n_threads, chunk_bytes, max_retries, retry_backoff, pacer } = config;
        assert!(n_threads > 0, "a reader has at least one thread");
        assert!(chunk_bytes > 0, "a chunk has at least one byte");
        let sources: Vec<_> =
            shards.into_iter().map(|Shard { path, storage }| Source { path: path.into(), storage }).collect();
        assert!(sources.iter().all(|source| DIRECT_ALIGN.is_multiple_of(source.storage.alignment())));

        let (queue, chunks) = crossbeam_channel::unbounded();
        let retry = Retry {
            max_retries,
            backoff: retry_backoff,
            counters: Counters::default(),
            gate: Gate::default(),
        };
        let mut reader = Self {
            sources,
            chunk_bytes: chunk_bytes.next_multiple_of(DIRECT_ALIGN),
            retry: Arc::new(retry),
            queue: Some(queue),
            threads: Vec::with_capacity(n_threads),
        };
        for thread_idx in 0..n_threads {
            let (chunks, retry, pacer) = (chunks.clone(), Arc::clone(&reader.retry), pacer.clone());
            let body = move || {
                #[cfg(target_os = "macos")]
                qos::user_initiated();
                worker::run(&chunks, &retry, pacer.as_deref());
            };
            let spawned = thread::Builder::new().name(format!("flash-read-{thread_idx}")).spawn(body);
            reader.threads.push(spawned.map_err(|error| IoError::Spawn { thread_idx, error })?);
        }
        Ok(reader)
    }

    /// Begins to read a bundle into a slot, behind all that was submitted before.
    ///
    /// Bytes of the slot that belong to no tensor of the bundle are unspecified afterwards.
    ///
    /// # Panics
    /// If the slot is smaller than the bundle, or the bundle names a shard that the reader does not have.
    pub fn submit(&self, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        assert!(bundle.slot_bytes() <= slot.len(), "a bundle fits its slot");
        let mut parts = Vec::new();
        let mut rest = Vec::new();
        for extent in bundle.extents() {
            let source = &self.sources[extent.shard.0];
            for chunk in extent.file.chunks(self.chunk_bytes as u64) {
                let (range, read) = part_of(extent, chunk, source.storage.alignment());
                let wanted_bytes = chunk.intersection(&extent.wanted).end - read.start;
                parts.push((range, Origin { path: Arc::clone(&source.path), offset: read.start }));
                rest.push((Arc::clone(&source.storage), wanted_bytes as usize));
            }
        }
        let (fill, pieces) = fill::split(slot, parts);
        let queue = self.queue.as_ref().expect("a reader keeps its queue until it is dropped");
        for (piece, (storage, wanted_bytes)) in pieces.into_iter().zip(rest) {
            // Were all threads gone, the chunk would come back in the error and end as closed when dropped.
            drop(queue.send(Chunk { piece, storage, wanted_bytes }));
        }
        Ticket::new(fill)
    }

    /// Reads a few bytes of a shard in the calling thread, past the queue and the pacer: an embedding row,
    /// not a bundle.
    ///
    /// # Errors
    /// [`IoError::ReadFailed`] as for a chunk of a bundle.
    ///
    /// # Panics
    /// If `out` is not as long as the span, or the reader does not have that shard.
    pub fn read_exact_at(&self, shard: ShardIdx, span: Span, out: &mut [u8]) -> Result<(), IoError> {
        assert_eq!(span.len_bytes(), out.len() as u64, "the output is as long as the span");
        let source = &self.sources[shard.0];
        let align = source.storage.alignment();
        for wanted in span.chunks(self.chunk_bytes as u64) {
            let target = (wanted.start - span.start) as usize..(wanted.end - span.start) as usize;
            let out = &mut out[target];
            let origin = |offset| Origin { path: Arc::clone(&source.path), offset };
            if align == 1 {
                let wanted_bytes = out.len();
                self.retry.read(&*source.storage, &origin(wanted.start), out, wanted_bytes)?;
            } else {
                let wide = wanted.align_outward(align as u64);
                let lead_bytes = (wanted.start - wide.start) as usize;
                let mut bounce = AlignedBuf::new(wide.len_bytes() as usize, align);
                let (buf, wanted_bytes) = (bounce.as_mut_slice(), lead_bytes + out.len());
                self.retry.read(&*source.storage, &origin(wide.start), buf, wanted_bytes)?;
                out.copy_from_slice(&bounce.as_slice()[lead_bytes..][..out.len()]);
            }
        }
        Ok(())
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.retry.counters.snapshot()
    }
}

/// The part of the slot that a chunk fills, and the bytes of the file that go there: whole blocks where the
/// storage needs them, else only what is wanted.
fn part_of(extent: &Extent, chunk: Span, align: usize) -> (Range<usize>, Span) {
    let read = if align == 1 { chunk.intersection(&extent.wanted) } else { chunk };
    (extent.place(read.start)..extent.place(read.end), read)
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.retry.gate.close();
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reader thread panicked");
            }
        }
    }
}
