//! Threads, or one with an io_uring, that read bundles into slots.

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
mod stragglers;
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

use self::fill::Origin;
use self::gate::Gate;
use self::queue::{Lane, Queue};
#[cfg(target_os = "linux")]
use self::ring::RingQueue;
use self::stats::Counters;
use self::stragglers::GivenUp;
use self::transfer::Retry;
use self::worker::Chunk;
use crate::catalog::{Shard, ShardIdx};
use crate::error::IoError;
use crate::layout::{BundleLayout, Extent};
use crate::pool::Slot;
use crate::span::Span;
use crate::storage::{AlignedBuf, DIRECT_ALIGN};

pub use pace::{Booking, Pace};
pub use stats::Stats;
pub use stragglers::Stragglers;
pub use ticket::Ticket;

/// How a [`Reader`] reads.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// How many reads of `chunk_bytes` at once keep the device busy; one leaves half of an SSD unused. Each is made by a thread
    /// of its own, or they are in one io_uring: there are twice as many there, or up to four times if they are short, because
    /// beside a model it takes more.
    pub depth: usize,
    /// Bytes of one read call, rounded up to a multiple of [`DIRECT_ALIGN`]. A bundle too small for `depth` of them is read
    /// in smaller ones.
    pub chunk_bytes: usize,
    /// How often in a row a chunk's read is repeated after it failed or brought nothing; 0 for never. A read that came short is
    /// repeated for what is missing as long as each brings something.
    pub max_retries: u32,
    /// The pause before the first repetition after a read that brought nothing; it doubles each time, up to
    /// a second, and begins anew when bytes have come.
    pub retry_backoff: Duration,
    /// A read that takes longer has failed: it is cancelled, and repeated like any other. If the device does not let go of
    /// it for that time again, the bundle fails; its slot comes back when the device is done with it.
    ///
    /// Only io_uring can do that. A thread whose read is stuck waits for it, and so does its bundle.
    pub read_timeout: Duration,
    /// Whether chunks stay in the page cache of the system where they went through that. By default they do not: a model that is
    /// streamed in a cycle finds nothing there unless all of it fits.
    pub keep_cached: bool,
    /// Decides when chunks may be read; `None` reads as fast as the device can.
    pub pacer: Option<Arc<dyn Pace>>,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            depth: 8,
            chunk_bytes: 1 << 20,
            max_retries: 4,
            retry_backoff: Duration::from_millis(2),
            read_timeout: Duration::from_secs(30),
            keep_cached: false,
            pacer: None,
        }
    }
}

/// Chunks are made no smaller than this, in bytes, so that a small bundle fills the queue: below, a disk pays more for each
/// read than it gains by having many.
const CHUNK_BYTES_MIN: u64 = 128 << 10;
/// And no larger: what the kernel takes in one read.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// Reads bundles of a fixed set of shards.
///
/// Bundles are read in the order in which they were submitted, each with as many reads at once as it has chunks. Those that
/// are only [guessed](Self::guess) to be wanted come behind all others.
/// Dropping the reader waits for the reads under way; tickets that are not done then end with
/// [`IoError::ReaderClosed`].
#[derive(Debug)]
pub struct Reader {
    sources: Vec<Source>,
    depth: usize,
    chunk_bytes: usize,
    read_timeout: Duration,
    retry: Arc<Retry>,
    given_up: Arc<GivenUp>,
    /// `None` if every shard is read through the ring.
    queue: Option<Arc<Queue<Chunk>>>,
    /// `None` if no shard is read through it.
    #[cfg(target_os = "linux")]
    ring: Option<RingQueue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Source {
    path: Arc<Path>,
    shard: Arc<Shard>,
    /// Its number among the files of the ring, if it is read through that.
    ring_file: Option<u32>,
}

impl Reader {
    /// Starts one thread with an io_uring for the shards whose storage wants that, and `depth` threads for the others.
    /// [`ShardIdx`] counts `shards` as they are given.
    ///
    /// # Errors
    /// [`IoError::Spawn`] if the system gives no thread, [`IoError::Ring`] if it gives no io_uring.
    ///
    /// # Panics
    /// If the configuration has no read at once or no byte in a chunk, or a storage asks for more alignment than
    /// [`DIRECT_ALIGN`], which [`open`](crate::open) never returns.
    pub fn new(shards: Vec<Shard>, config: ReaderConfig) -> Result<Self, IoError> {
        let ReaderConfig { depth, chunk_bytes, max_retries, retry_backoff, read_timeout, keep_cached, pacer } =
            config;
        assert!(depth > 0, "a reader makes at least one read at once");
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
            given_up: Arc::default(),
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

    /// Begins to read a bundle into a slot, behind all that was submitted before.
    ///
    /// Bytes of the slot that belong to no tensor of the bundle are unspecified afterwards.
    ///
    /// # Panics
    /// If the slot is smaller than the bundle, or the bundle names a shard that the reader does not have.
    pub fn submit(&self, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        self.submit_behind(0, bundle, slot)
    }

    /// The same, when `waiting_bytes` of other bundles of its kind are still to be read: it need not fill the queue alone, so
    /// it is not cut into smaller reads for that.
    ///
    /// # Panics
    /// As [`submit`](Self::submit).
    pub fn submit_behind(&self, waiting_bytes: u64, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        self.enqueue(Lane::Wanted, waiting_bytes, bundle, slot)
    }

    /// Begins to read a bundle that may be wanted, when nothing is to be read that is: all that is submitted later overtakes
    /// it, but for reads under way. It is cut into reads as by [`submit_behind`](Self::submit_behind).
    ///
    /// # Panics
    /// As [`submit`](Self::submit).
    pub fn guess(&self, waiting_bytes: u64, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        self.enqueue(Lane::Guessed, waiting_bytes, bundle, slot)
    }

    /// What was guessed is wanted now, as if what of it is still to be read had just been submitted.
    pub fn want(&self, guess: &Ticket) {
        let is_of_it = |chunk: &Chunk| chunk.piece.is_of(guess.fill());
        if let Some(queue) = &self.queue {
            queue.promote(is_of_it);
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = &self.ring {
            ring.promote(is_of_it);
        }
    }

    /// What was guessed is not wanted. Its slot goes back to its pool when the reads under way have ended; a ticket that is
    /// only dropped keeps it until its turn has come.
    pub fn give_up(&self, guess: Ticket) {
        let fill = Arc::clone(guess.fill());
        // First: a chunk that is taken meanwhile ends at once.
        drop(guess);
        let is_of_it = |chunk: &Chunk| chunk.piece.is_of(&fill);
        if let Some(queue) = &self.queue {
            queue.discard(is_of_it);
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = &self.ring {
            ring.discard(is_of_it);
        }
    }

    fn enqueue(&self, lane: Lane, waiting_bytes: u64, bundle: &Arc<BundleLayout>, slot: Slot) -> Ticket {
        assert!(bundle.slot_bytes() <= slot.len(), "a bundle fits its slot");
        let chunk_bytes = self.chunk_bytes_of(waiting_bytes.saturating_add(bundle.slot_bytes() as u64));
        let mut parts = Vec::new();
        let mut rest = Vec::new();
        for extent in bundle.extents() {
            let source = &self.sources[extent.shard.0];
            // Alike: a short one at the end would cost as much as a whole one.
            for chunk in extent.file.even_chunks(chunk_bytes, DIRECT_ALIGN as u64) {
                let (range, read) = part_of(extent, chunk, source.shard.storage.alignment());
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
        Ticket::new(fill, shards, Arc::clone(&self.given_up))
    }

    /// So many that what is to be read fills the queue, if that is possible without chunks that are too small.
    fn chunk_bytes_of(&self, bytes: u64) -> u64 {
        let share_bytes = bytes.div_ceil(self.depth as u64).max(CHUNK_BYTES_MIN);
        share_bytes.next_multiple_of(DIRECT_ALIGN as u64).min(self.chunk_bytes as u64)
    }

    /// Reads a few bytes of a shard in the calling thread, past the queue and the pacer: an embedding row,
    /// not a bundle.
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

    /// Reads that nobody waits for any more and that have not ended; `None` if there are none. Their slots are neither free
    /// nor anybody's.
    pub fn stragglers(&self) -> Option<Stragglers> {
        self.given_up.stragglers()
    }

    /// How long the slots of [`stragglers`](Self::stragglers) may reasonably be waited for: a read that takes longer than
    /// [`ReaderConfig::read_timeout`] is cancelled, and that may take as long again.
    pub fn straggler_timeout(&self) -> Duration {
        self.read_timeout.saturating_mul(2)
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.retry.counters.snapshot()
    }

    /// The same for whoever does not hold the reader, which may have gone by then.
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle { retry: Arc::clone(&self.retry) }
    }
}

/// Tells what a reader has done.
#[derive(Debug, Clone)]
pub struct StatsHandle {
    retry: Arc<Retry>,
}

impl StatsHandle {
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
