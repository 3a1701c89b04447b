//! The loop of the ring's thread: one thread that keeps as much under way as the device has use for.
//!
//! It does what [`worker`](super::worker) does with many threads, without ever sleeping for one chunk: a chunk that is
//! held back by the pacer, or rests before it is read again, has a due time, and the ring waits no longer than that.

use std::io;
#[cfg(feature = "testing")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::fill::Piece;
use super::pace::{self, Booking, Pace, Panicked};
use super::queue::{ClosesOnDrop, Lane, Queue};
use super::stats::{ActiveGuard, add_time};
use super::transfer::{Retry, Step, Transfer};
use super::uring::{Landed, Uring, Wake};
use super::worker::{Chunk, panicked};
use crate::error::IoError;
use crate::storage::ReadAt;

/// Whole chunks under way for each that keeps the device busy when nothing else is done: beside a model, tokens take less time
/// with so many (docs/performance.md).
const CHUNKS_UNDER_WAY: usize = 2;
/// The same of reads, where they are shorter: two thirds of those of an expert that lies in nine places are a ninth of it.
const READS_UNDER_WAY: usize = 4;

/// The way to the ring's thread.
#[derive(Debug)]
pub(super) struct RingQueue {
    chunks: Arc<Queue<RingChunk>>,
    wake: Arc<Wake>,
}

/// A chunk, and which of the ring's files it is read from.
#[derive(Debug)]
struct RingChunk {
    chunk: Chunk,
    file: u32,
}

impl RingQueue {
    /// Starts the thread; the files are numbered as `storages` are, all of which have one. It keeps a device busy
    /// that needs `depth` reads of `chunk_bytes` at once for that.
    pub(super) fn start(
        storages: Vec<Arc<dyn ReadAt>>,
        depth: usize,
        chunk_bytes: usize,
        retry: Arc<Retry>,
        pacer: Option<Arc<dyn Pace>>,
        read_timeout: Duration,
    ) -> Result<(Self, JoinHandle<()>), IoError> {
        let n_files = storages.len();
        let failed = |error| IoError::Ring { depth, n_files, error };
        let wake = Arc::new(Wake::new().map_err(failed)?);
        let chunks = Arc::new(Queue::new());
        let thread_chunks = Arc::clone(&chunks);
        let (started, starting) = crossbeam_channel::bounded(1);
        let thread_wake = Arc::clone(&wake);
        let body = move || {
            let chunks = ClosesOnDrop(&*thread_chunks);
            // A ring is used by the thread that made it and by no other.
            let files: Vec<_> = storages.iter().filter_map(|storage| storage.ring_file()).collect();
            let made = Uring::new(depth.saturating_mul(READS_UNDER_WAY), &files, Some(thread_wake));
            let uring = match made {
                Ok(uring) => uring,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            let under_way_bytes_max = depth.saturating_mul(CHUNKS_UNDER_WAY).saturating_mul(chunk_bytes);
            let ring =
                Ring::new(uring, under_way_bytes_max, chunks.0, &retry, pacer.as_deref(), read_timeout);
            if let Err(error) = ring.run() {
                tracing::error!(%error, "the ring is broken: what is to be read ends as closed");
            }
        };
        let thread = thread::Builder::new()
            .name(String::from("flash-ring"))
            .spawn(body)
            .map_err(|error| IoError::Spawn { thread_idx: 0, error })?;
        match starting.recv() {
            Ok(Ok(())) => Ok((Self { chunks, wake }, thread)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Queues a chunk; [`wake`](Self::wake) the ring when all are queued.
    pub(super) fn push(&self, lane: Lane, chunk: Chunk, file: u32) {
        self.chunks.push(lane, RingChunk { chunk, file });
    }

    /// Has chunks that were guessed overtake the others that were.
    pub(super) fn promote(&self, is: impl Fn(&Chunk) -> bool) {
        self.chunks.promote(|ring_chunk| is(&ring_chunk.chunk));
    }

    /// Drops chunks that were guessed.
    pub(super) fn discard(&self, is: impl Fn(&Chunk) -> bool) {
        self.chunks.discard(|ring_chunk| is(&ring_chunk.chunk));
    }

    pub(super) fn wake(&self) {
        self.wake.wake();
    }
}

/// What goes with a read under way.
struct Load {
    storage: Arc<dyn ReadAt>,
    wanted_bytes: usize,
    file: u32,
    transfer: Transfer,
    begun: Instant,
    /// When it has taken too long; `None` if nothing more can be done about that.
    due: Option<Instant>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reading,
    /// It took too long, and the kernel was asked to end it.
    Cancelled,
    /// It did not end then either: its waiter was told, only its memory is waited for.
    Abandoned,
}

/// A chunk that rests before it is read again.
struct Resting {
    /// `None` if that is too far away for the clock.
    due: Option<Instant>,
    piece: Piece,
    load: Load,
}

/// A chunk that the pacer holds back.
struct Held {
    booked: Instant,
    booking: Box<dyn Booking>,
    /// When to ask again.
    due: Instant,
    chunk: RingChunk,
}

struct Ring<'a> {
    uring: Uring<Load>,
    under_way_bytes_max: usize,
    chunks: &'a Queue<RingChunk>,
    retry: &'a Retry,
    pacer: Option<&'a dyn Pace>,
    read_timeout: Duration,
    held: Option<Held>,
    resting: Vec<Resting>,
    /// While a read is under way.
    active: Option<ActiveGuard<'a>>,
}

impl<'a> Ring<'a> {
    fn new(
        uring: Uring<Load>,
        under_way_bytes_max: usize,
        chunks: &'a Queue<RingChunk>,
        retry: &'a Retry,
        pacer: Option<&'a dyn Pace>,
        read_timeout: Duration,
    ) -> Self {
        let (held, resting, active) = (None, Vec::new(), None);
        Self { uring, under_way_bytes_max, chunks, retry, pacer, read_timeout, held, resting, active }
    }

    /// Reads chunks until the reader closes; those under way are waited for, the others end as closed.
    ///
    /// # Errors
    /// What the system says if the ring does not work any more.
    fn run(mut self) -> io::Result<()> {
        while !self.retry.gate.is_closed() {
            self.read_again()?;
            self.take_chunks()?;
            self.wait()?;
            self.expire()?;
        }
        self.held = None;
        self.resting.clear();
        let under_way: Vec<_> = self.uring.flights().map(|(user_data, ..)| user_data).collect();
        for user_data in under_way {
            self.uring.cancel(user_data)?;
        }
        while self.uring.n_flights() > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// Whether the device has a use for another read.
    fn has_room(&self) -> bool {
        self.uring.has_room() && self.uring.under_way_bytes() < self.under_way_bytes_max
    }

    /// Begins with new chunks as far as there is room, the pacer lets them, and there are any.
    fn take_chunks(&mut self) -> io::Result<()> {
        while self.has_room() {
            let now = Instant::now();
            let next = match self.held.take() {
                Some(held) if held.due > now => {
                    self.held = Some(held);
                    return Ok(());
                }
                Some(held) => self.admit(held, now),
                None => match self.chunks.try_pop() {
                    None => return Ok(()),
                    Some(next) => self.book(next, now),
                },
            };
            let Some(next) = next else { continue };
            let RingChunk { chunk: Chunk { piece, storage, wanted_bytes }, file } = next;
            if piece.is_cancelled() {
                piece.end(Ok(()));
                continue;
            }
            let transfer = Transfer::new(self.retry, wanted_bytes, storage.alignment());
            let load =
                Load { wanted_bytes, storage, file, transfer, begun: now, due: None, stage: Stage::Reading };
            self.begin(piece, load)?;
        }
        Ok(())
    }

    /// Books a chunk with the pacer; returns it if it may be read at once.
    fn book(&mut self, chunk: RingChunk, now: Instant) -> Option<RingChunk> {
        let Some(pacer) = self.pacer else { return Some(chunk) };
        match pace::book(pacer, chunk.chunk.wanted_bytes as u64) {
            Ok(booking) => self.admit(Held { booked: now, booking, due: now, chunk }, now),
            Err(Panicked) => {
                panicked(self.retry, chunk.chunk.piece);
                None
            }
        }
    }

    /// Asks the pacer whether a chunk may be read now. If it has to wait it is held, and everything behind it.
    fn admit(&mut self, mut held: Held, now: Instant) -> Option<RingChunk> {
        if held.chunk.chunk.piece.is_cancelled() {
            held.chunk.chunk.piece.end(Ok(()));
            return None;
        }
        match pace::pause(&*held.booking) {
            Ok(None) => {
                if held.due > held.booked {
                    add_time(&self.retry.counters.paced_ns, now - held.booked);
                }
                Some(held.chunk)
            }
            Ok(Some(pause)) => {
                held.due = now + pause;
                self.held = Some(held);
                None
            }
            Err(Panicked) => {
                panicked(self.retry, held.chunk.chunk.piece);
                None
            }
        }
    }

    fn begin(&mut self, piece: Piece, mut load: Load) -> io::Result<()> {
        let from = load.transfer.from();
        load.begun = Instant::now();
        load.due = load.begun.checked_add(self.read_timeout);
        load.stage = Stage::Reading;
        self.active.get_or_insert_with(|| self.retry.counters.active.enter());
        self.uring.read(load.file, piece.origin().offset + from as u64, piece, from, load)
    }

    /// Begins again with what has rested long enough.
    fn read_again(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while self.has_room()
            && let Some(idx) =
                self.resting.iter().position(|resting| resting.due.is_some_and(|due| due <= now))
        {
            let Resting { piece, load, .. } = self.resting.remove(idx);
            if piece.is_cancelled() {
                piece.end(Ok(()));
            } else {
                self.begin(piece, load)?;
            }
        }
        Ok(())
    }

    /// Waits until there is something to do, and takes what has ended.
    fn wait(&mut self) -> io::Result<()> {
        let due = self.next_due();
        self.uring.wait(due.map(|due| due.saturating_duration_since(Instant::now())))?;
        while let Some(landed) = self.uring.land()? {
            self.land(landed);
        }
        if self.uring.n_flights() == 0 {
            self.active = None;
        }
        Ok(())
    }

    fn next_due(&mut self) -> Option<Instant> {
        let has_room = self.has_room();
        let held = self.held.as_ref().map(|held| held.due).filter(|_| has_room);
        let resting = self.resting.iter().filter_map(|resting| resting.due).filter(|_| has_room).min();
        let flights = self.uring.flights().filter_map(|(_, _, load)| load.due).min();
        held.into_iter().chain(resting).chain(flights).min()
    }

    fn land(&mut self, Landed { piece, mut load, outcome }: Landed<Load>) {
        let retry = self.retry;
        add_time(&retry.counters.busy_ns, load.begun.elapsed());
        let closed = retry.gate.is_closed();
        let outcome = match outcome {
            Err(error) if is_cancellation(&error) && load.stage != Stage::Reading => {
                Err(io::Error::from(Errno::TIMEDOUT))
            }
            Err(error) if is_cancellation(&error) && closed => {
                let error = piece.origin().closed();
                return piece.end(Err(error));
            }
            outcome => outcome,
        };
        if load.stage == Stage::Abandoned {
            return piece.end(Ok(()));
        }
        #[cfg(feature = "testing")]
        let outcome = {
            let offset = piece.origin().offset + load.transfer.from() as u64;
            match catch_unwind(AssertUnwindSafe(|| load.storage.ring_outcome(offset, outcome))) {
                Ok(outcome) => outcome,
                Err(_) => return panicked(retry, piece),
            }
        };
        let ended = match load.transfer.completed(retry, piece.origin(), outcome) {
            Step::Done => Ok(()),
            Step::GivenUp(error) => Err(error),
            Step::Again { .. } if closed => Err(piece.origin().closed()),
            Step::Again { pause } => {
                let due = Instant::now().checked_add(pause);
                return self.resting.push(Resting { due, piece, load });
            }
        };
        retry.count(&ended);
        match &ended {
            Ok(()) => retry.drop_cached(&*load.storage, piece.origin(), load.wanted_bytes),
            Err(error) => tracing::warn!(%error, "a chunk was given up"),
        }
        piece.end(ended);
    }

    /// Cancels reads that take too long, and gives up those that go on all the same.
    fn expire(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut late = Vec::new();
        for (user_data, piece, load) in self.uring.flights() {
            if load.due.is_none_or(|due| due > now) {
                continue;
            }
            let origin = piece.origin();
            match load.stage {
                Stage::Reading => {
                    let time = self.read_timeout;
                    tracing::warn!(path = %origin.path.display(), offset = origin.offset, ?time, "a read takes too long");
                    load.stage = Stage::Cancelled;
                    load.due = now.checked_add(self.read_timeout);
                    late.push(user_data);
                }
                Stage::Cancelled => {
                    load.stage = Stage::Abandoned;
                    load.due = None;
                    let error = load.transfer.failed(origin, Some(Errno::TIMEDOUT.into()));
                    tracing::error!(%error, "a read cannot be ended: its slot is waited for");
                    self.retry.count(&Err(error));
                    piece.abandon(load.transfer.failed(origin, Some(Errno::TIMEDOUT.into())));
                }
                Stage::Abandoned => {}
            }
        }
        late.into_iter().try_for_each(|user_data| self.uring.cancel(user_data))
    }
}

/// What a read returns that was cancelled: in a queue, or in a thread of the kernel's.
fn is_cancellation(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::CANCELED | Errno::INTR))
}
