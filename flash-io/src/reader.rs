//! Reader of bundles into slots, by an io_uring or a pool of threads.

mod cancelled_reads;
#[cfg(target_os = "linux")]
mod completion;
mod config;
pub(crate) mod fill;
mod gate;
#[cfg(all(test, loom))]
mod interleavings;
mod pace;
#[cfg(target_os = "macos")]
mod qos;
mod queue;
#[cfg(target_os = "linux")]
mod ring;
mod stats;
mod ticket;
mod transfer;
#[cfg(target_os = "linux")]
pub(crate) mod uring;
mod worker;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::cancelled_reads::CancelledFills;
use self::fill::Origin;
use self::gate::Gate;
use self::queue::{Lane, Queue};
#[cfg(target_os = "linux")]
use self::ring::RingQueue;
use self::stats::Counters;
use self::transfer::Retry;
use self::worker::Chunk;
use crate::catalog::{Shard, ShardIdx};
use crate::error::IoError;
use crate::layout::{BundleLayout, Extent};
use crate::pool::Slot;
use crate::span::Span;
use crate::storage::{AlignedBuf, DIRECT_ALIGN};

pub use cancelled_reads::CancelledReads;
pub(crate) use config::CHUNKS_IN_FLIGHT;
pub use config::ReaderConfig;
pub use pace::{Booking, Pace};
pub use stats::Stats;
pub use ticket::Ticket;

/// Minimum bytes of the chunks into which a small bundle is split: with smaller ones, the cost of each read exceeds the
/// gain of a deeper queue.
const CHUNK_BYTES_MIN: u64 = 128 << 10;
/// Maximum bytes of a chunk, which the kernel reads in one call.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// Asynchronous reader of bundles from a fixed set of shards.
///
/// Bundles are read in the order of submission, the chunks of each concurrently. [Speculative](Self::guess) bundles are
/// read after all others. Dropping the reader waits for the reads in flight; tickets that are not done then fail with
/// [`IoError::ReaderClosed`].
#[derive(Debug)]
pub struct Reader {
    sources: Vec<Source>,
    depth: usize,
    chunk_bytes: usize,
    read_timeout: Duration,
    retry: Arc<Retry>,
    cancelled: Arc<CancelledFills>,
    /// `None` if all shards are read through the ring.
    queue: Option<Arc<Queue<Chunk>>>,
    /// `None` if no shard is read through the ring.
    #[cfg(target_os = "linux")]
    ring: Option<RingQueue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Source {
    path: Arc<Path>,
    shard: Arc<Shard>,
    /// Index among the ring's files, if the shard is read through the ring.
    ring_file: Option<u32>,
}

impl Reader {
    /// Starts one thread with an io_uring for the shards whose storage supports it, and `depth` threads for the others.
    /// [`ShardIdx`] is the index in `shards`.
    ///
    /// # Errors
    /// [`IoError::Spawn`] if a thread cannot be started, [`IoError::Ring`] if the io_uring cannot be created.
    ///
    /// # Panics
    /// If `depth` or `chunk_bytes` of the configuration is 0, or a storage requires a coarser alignment than
    /// [`DIRECT_ALIGN`], which [`open`](crate::open) never returns.
    pub fn new(shards: Vec<Shard>, config: ReaderConfig) -> Result<Self, IoError> {
        let ReaderConfig { depth, chunk_bytes, max_retries, retry_backoff, read_timeout, keep_cached, pacer } =
            config;
        assert!(depth > 0, "a reader has at least one read in flight");
        assert!(chunk_bytes > 0, "a chunk has at least one byte");
        let mut n_files = 0;
        let sources = shards.into_iter().map(|shard| {
            let ring_file = shard.storage.ring_file().map(|_| {
                n_files += 1;
                n_files - 1
            });
            Source { path: shard.path.as_path().into(), shard: Arc::new(shard), ring_file }
        });
        let sources: Vec<_> = sources.collect();
        assert!(sources.iter().all(|source| DIRECT_ALIGN.is_multiple_of(source.shard.storage.alignment())));

        if !keep_cached {
            sources.iter().for_each(|source| source.shard.storage.advise_random());
        }

        let retry = Retry {
            max_retries,
            backoff: retry_backoff,
            keep_cached,
            counters: Counters::default(),
            gate: Gate::default(),
        };
        let mut reader = Self {
            sources,
            depth,
            chunk_bytes: chunk_bytes.min(CHUNK_BYTES_MAX).next_multiple_of(DIRECT_ALIGN),
            read_timeout,
            retry: Arc::new(retry),
            cancelled: Arc::default(),
            queue: None,
            #[cfg(target_os = "linux")]
            ring: None,
            threads: Vec::new(),
        };
        #[cfg(target_os = "linux")]
        if n_files > 0 {
            reader.start_ring(pacer.clone(), read_timeout)?;
        }
        if reader.sources.iter().any(|source| source.ring_file.is_none()) {
            reader.start_threads(pacer.as_ref())?;
        }
        Ok(reader)
    }

    fn start_threads(&mut self, pacer: Option<&Arc<dyn Pace>>) -> Result<(), IoError> {
        let queue = self.queue.insert(Arc::new(Queue::new()));
        for thread_idx in 0..self.depth {
            let (chunks, retry, pacer) = (Arc::clone(queue), Arc::clone(&self.retry), pacer.cloned());
            let body = move || {
                #[cfg(target_os = "macos")]
                qos::user_initiated();
                worker::run(&chunks, &retry, pacer.as_deref());
            };
            let spawned = thread::Builder::new().name(format!("flash-read-{thread_idx}")).spawn(body);
            self.threads.push(spawned.map_err(|error| IoError::Spawn { thread_idx, error })?);
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn start_ring(&mut self, pacer: Option<Arc<dyn Pace>>, read_timeout: Duration) -> Result<(), IoError> {
        let ring_sources = self.sources.iter().filter(|source| source.ring_file.is_some());
        let storages = ring_sources.map(|source| Arc::clone(&source.shard.storage)).collect();
        let retry = Arc::clone(&self.retry);
        let (ring, thread) =
            RingQueue::start(storages, self.depth, self.chunk_bytes, retry, pacer, read_timeout)?;
        self.ring = Some(ring);
        self.threads.push(thread);
        Ok(())
    }

    /// Queues reads of a bundle into a slot, after all bundles submitted earlier.
    ///
    /// Bytes of the slot outside the bundle's tensors are unspecified afterwards.
    ///
    /// # Panics
    /// If the slot is smaller than the bundle, or the bundle names a shard that the reader does not have.
    pub fn submit(&self, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        self.submit_with_backlog(0, bundle, slot)
    }

    /// Queues a bundle like [`submit`](Self::submit), given the bytes of the bundles that are queued or about to be:
    /// together they fill the queue, so the bundle need not be split into smaller reads for that.
    ///
    /// # Panics
    /// See [`submit`](Self::submit).
    pub fn submit_with_backlog(&self, waiting_bytes: u64, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        self.enqueue(Lane::Demand, waiting_bytes, bundle, slot)
    }

    /// Queues a speculative read of a bundle, with lower priority than all [submitted](Self::submit) bundles, including
    /// later ones; reads in flight are not interrupted. The bundle is split as by
    /// [`submit_with_backlog`](Self::submit_with_backlog).
    ///
    /// # Panics
    /// See [`submit`](Self::submit).
    pub fn guess(&self, waiting_bytes: u64, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        self.enqueue(Lane::Speculative, waiting_bytes, bundle, slot)
    }

    /// Promotes a [speculative](Self::guess) bundle: its remaining reads are queued as if submitted now.
    pub fn want(&self, guess: &Ticket) {
        let is_of_ticket = |chunk: &Chunk| chunk.piece.is_of(guess.fill());
        if let Some(queue) = &self.queue {
            queue.promote(is_of_ticket);
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = &self.ring {
            ring.promote(is_of_ticket);
        }
    }

    /// Cancels a [speculative](Self::guess) bundle and removes it from the queue. Its slot returns to its pool when the
    /// reads in flight have ended; if the ticket is only dropped, the slot stays in use until the bundle's turn in the
    /// queue.
    pub fn give_up(&self, guess: Ticket) {
        let fill = Arc::clone(guess.fill());
        // Before the queue is searched, so that a chunk taken meanwhile ends at once.
        drop(guess);
        let is_of_ticket = |chunk: &Chunk| chunk.piece.is_of(&fill);
        if let Some(queue) = &self.queue {
            queue.discard(is_of_ticket);
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = &self.ring {
            ring.discard(is_of_ticket);
        }
    }

    fn enqueue(&self, lane: Lane, waiting_bytes: u64, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        assert!(bundle.slot_bytes() <= slot.len(), "a bundle fits its slot");
        let chunk_bytes = self.chunk_bytes_for(waiting_bytes.saturating_add(bundle.slot_bytes() as u64));
        let mut parts = Vec::new();
        let mut rest = Vec::new();
        for extent in bundle.extents() {
            let source = &self.sources[extent.shard.0];
            // Of equal length, because a short last chunk costs as much as a full one.
            for chunk in extent.file.even_chunks(chunk_bytes, DIRECT_ALIGN as u64) {
                let (range, read) = ranges_of(extent, chunk, source.shard.storage.alignment());
                let wanted_bytes = chunk.intersection(&extent.wanted).end - read.start;
                parts.push((range, Origin { path: Arc::clone(&source.path), offset: read.start }));
                rest.push((source, wanted_bytes as usize));
            }
        }
        let (fill, pieces) = fill::split(slot, parts);
        for (piece, (source, wanted_bytes)) in pieces.into_iter().zip(rest) {
            let chunk = Chunk { piece, storage: Arc::clone(&source.shard.storage), wanted_bytes };
            #[cfg(target_os = "linux")]
            if let Some(file) = source.ring_file {
                self.ring.as_ref().expect("a source of the ring has one").push(lane, chunk, file);
                continue;
            }
            self.queue.as_ref().expect("a source without a ring has threads").push(lane, chunk);
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = &self.ring {
            ring.wake();
        }
        let mut shards: Vec<Arc<Shard>> = Vec::new();
        for extent in bundle.extents() {
            let shard = &self.sources[extent.shard.0].shard;
            if !shards.last().is_some_and(|last| Arc::ptr_eq(last, shard)) {
                shards.push(Arc::clone(shard));
            }
        }
        Ticket::new(fill, shards, Arc::clone(&self.cancelled))
    }

    /// Returns the chunk size for `bytes` of queued data: small enough to fill the queue, within the limits.
    fn chunk_bytes_for(&self, bytes: u64) -> u64 {
        let share_bytes = bytes.div_ceil(self.depth as u64).max(CHUNK_BYTES_MIN);
        share_bytes.next_multiple_of(DIRECT_ALIGN as u64).min(self.chunk_bytes as u64)
    }

    /// Reads a small span of a shard in the calling thread, bypassing queue and pacer: an embedding row, not a bundle.
    ///
    /// # Errors
    /// [`IoError::ReadFailed`] as for a chunk of a bundle, [`IoError::Changed`] as for a [ticket](Ticket::wait).
    ///
    /// # Panics
    /// If `out` is not as long as the span, or the reader does not have that shard.
    pub fn read_exact_at(&self, shard: ShardIdx, span: Span, out: &mut [u8]) -> Result<(), IoError> {
        assert_eq!(span.len_bytes(), out.len() as u64, "the output is as long as the span");
        let source = &self.sources[shard.0];
        let align = source.shard.storage.alignment();
        for wanted in span.chunks(self.chunk_bytes as u64) {
            let target = (wanted.start - span.start) as usize..(wanted.end - span.start) as usize;
            let out = &mut out[target];
            let origin = |offset| Origin { path: Arc::clone(&source.path), offset };
            if align == 1 {
                let wanted_bytes = out.len();
                self.retry.read(&*source.shard.storage, &origin(wanted.start), out, wanted_bytes, || true)?;
            } else {
                let wide = wanted.align_outward(align as u64);
                let lead_bytes = (wanted.start - wide.start) as usize;
                let mut bounce = AlignedBuf::new(wide.len_bytes() as usize, align);
                let (buf, wanted_bytes) = (bounce.as_mut_slice(), lead_bytes + out.len());
                self.retry.read(&*source.shard.storage, &origin(wide.start), buf, wanted_bytes, || true)?;
                out.copy_from_slice(&bounce.as_slice()[lead_bytes..][..out.len()]);
            }
        }
        source.shard.check_unchanged()
    }

    /// Returns the cancelled bundles that still have reads in flight, whose slots are not free yet; `None` if there are
    /// none.
    pub fn cancelled_reads(&self) -> Option<CancelledReads> {
        self.cancelled.cancelled_reads()
    }

    /// Returns how long to wait at most until the slots of [`cancelled_reads`](Self::cancelled_reads) are free: a read
    /// is cancelled after [`ReaderConfig::read_timeout`], and the cancellation may take as long again.
    pub fn cancel_timeout(&self) -> Duration {
        self.read_timeout.saturating_mul(2)
    }

    /// Returns the statistics so far.
    pub fn stats(&self) -> Stats {
        self.retry.counters.snapshot()
    }

    /// Returns a handle to the statistics that outlives the reader.
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle { retry: Arc::clone(&self.retry) }
    }
}

/// Handle to the statistics of a [`Reader`], valid after the reader is dropped.
#[derive(Debug, Clone)]
pub struct StatsHandle {
    retry: Arc<Retry>,
}

impl StatsHandle {
    /// Returns the statistics so far.
    pub fn stats(&self) -> Stats {
        self.retry.counters.snapshot()
    }
}

/// Returns the slot range that a chunk fills and the file range to read: whole blocks if the storage requires
/// alignment, else only the wanted bytes.
fn ranges_of(extent: &Extent, chunk: Span, align: usize) -> (Range<usize>, Span) {
    let read = if align == 1 { chunk.intersection(&extent.wanted) } else { chunk };
    (extent.slot_offset_of(read.start)..extent.slot_offset_of(read.end), read)
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.retry.gate.close();
        if let Some(queue) = &self.queue {
            queue.close();
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = &self.ring {
            ring.wake();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reader thread panicked");
            }
        }
    }
}
