//! Event loop of the ring's thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::reader::completion::CompletionHook;
use crate::reader::fill::Piece;
use crate::reader::pace::{self, Booking, Pace, Panicked};
use crate::reader::queue::Queue;
use crate::reader::stats::{ActiveGuard, add_time};
use crate::reader::transfer::{Retry, Step, Transfer};
use crate::reader::uring::{Completed, Uring};
use crate::reader::worker::{Chunk, panicked};
use crate::storage::ReadAt;

/// A chunk, with the index of its file in the ring.
#[derive(Debug)]
pub(super) struct RingChunk {
    pub(super) chunk: Chunk,
    pub(super) file: u32,
}

/// State of a read in flight.
pub(super) struct ReadContext {
    storage: Arc<dyn ReadAt>,
    wanted_bytes: usize,
    file: u32,
    transfer: Transfer,
    started: Instant,
    /// Deadline of the current stage; `None` if it has none.
    due: Option<Instant>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reading,
    /// The read timed out, and its cancellation was requested.
    Cancelled,
    /// The cancellation timed out too: the bundle has failed, and its slot stays in use until the read completes.
    Abandoned,
}

/// A chunk that pauses before a retry.
struct RetryLater {
    /// Time of the retry; `None` if it exceeds the range of the clock.
    due: Option<Instant>,
    piece: Piece,
    context: ReadContext,
}

/// A chunk held by the pacer.
struct HeldChunk {
    booked: Instant,
    booking: Box<dyn Booking>,
    /// When to ask the pacer again.
    due: Instant,
    chunk: RingChunk,
}

/// The thread's side of the ring. `H` maps the results of reads.
pub(super) struct Ring<'a, H> {
    uring: Uring<ReadContext>,
    in_flight_bytes_max: usize,
    chunks: &'a Queue<RingChunk>,
    retry: &'a Retry,
    pacer: Option<&'a dyn Pace>,
    read_timeout: Duration,
    held: Option<HeldChunk>,
    retries: Vec<RetryLater>,
    /// `Some` while a read is in flight.
    active: Option<ActiveGuard<'a>>,
    hook: H,
}

impl<'a, H: CompletionHook> Ring<'a, H> {
    pub(super) fn new(
        uring: Uring<ReadContext>,
        in_flight_bytes_max: usize,
        chunks: &'a Queue<RingChunk>,
        retry: &'a Retry,
        pacer: Option<&'a dyn Pace>,
        read_timeout: Duration,
        hook: H,
    ) -> Self {
        let (held, retries, active) = (None, Vec::new(), None);
        Self { uring, in_flight_bytes_max, chunks, retry, pacer, read_timeout, held, retries, active, hook }
    }

    /// Reads chunks until the reader closes, then cancels the reads in flight and waits for them. Chunks that were not
    /// read end as closed.
    ///
    /// # Errors
    /// The operating system's error if the ring fails.
    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.retry.gate.is_closed() {
            self.start_due_retries()?;
            self.start_chunks()?;
            self.wait()?;
            self.cancel_overdue()?;
        }
        self.held = None;
        self.retries.clear();
        let in_flight: Vec<_> = self.uring.in_flight().map(|(user_data, ..)| user_data).collect();
        for user_data in in_flight {
            self.uring.cancel(user_data)?;
        }
        while self.uring.n_in_flight() > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// Returns whether another read fits the limits of reads and bytes in flight.
    fn has_room(&self) -> bool {
        self.uring.has_room() && self.uring.in_flight_bytes() < self.in_flight_bytes_max
    }

    /// Starts queued chunks while there is room and the pacer admits them.
    fn start_chunks(&mut self) -> io::Result<()> {
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
            let context = ReadContext {
                wanted_bytes,
                storage,
                file,
                transfer,
                started: now,
                due: None,
                stage: Stage::Reading,
            };
            self.start_read(piece, context)?;
        }
        Ok(())
    }

    /// Books a chunk with the pacer, and returns it if it may be read now.
    fn book(&mut self, chunk: RingChunk, now: Instant) -> Option<RingChunk> {
        let Some(pacer) = self.pacer else { return Some(chunk) };
        match pace::book(pacer, chunk.chunk.wanted_bytes as u64) {
            Ok(booking) => self.admit(HeldChunk { booked: now, booking, due: now, chunk }, now),
            Err(Panicked) => {
                panicked(self.retry, chunk.chunk.piece);
                None
            }
        }
    }

    /// Returns a booked chunk if the pacer admits it now; otherwise holds it, and with it all chunks behind it.
    fn admit(&mut self, mut held: HeldChunk, now: Instant) -> Option<RingChunk> {
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

    fn start_read(&mut self, piece: Piece, mut context: ReadContext) -> io::Result<()> {
        let from = context.transfer.resume_offset();
        context.started = Instant::now();
        context.due = context.started.checked_add(self.read_timeout);
        context.stage = Stage::Reading;
        self.active.get_or_insert_with(|| self.retry.counters.active.enter());
        self.uring.read(context.file, piece.origin().offset + from as u64, piece, from, context)
    }

    /// Restarts the chunks whose retries are due, while there is room.
    fn start_due_retries(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while self.has_room()
            && let Some(idx) = self.retries.iter().position(|retry| retry.due.is_some_and(|due| due <= now))
        {
            let RetryLater { piece, context, .. } = self.retries.remove(idx);
            if piece.is_cancelled() {
                piece.end(Ok(()));
            } else {
                self.start_read(piece, context)?;
            }
        }
        Ok(())
    }

    /// Waits until a read completes, the ring is woken or something is due, and handles completed reads.
    fn wait(&mut self) -> io::Result<()> {
        let due = self.next_due();
        self.uring.wait(due.map(|due| due.saturating_duration_since(Instant::now())))?;
        while let Some(completed) = self.uring.next_completed()? {
            self.complete(completed);
        }
        if self.uring.n_in_flight() == 0 {
            self.active = None;
        }
        Ok(())
    }

    fn next_due(&mut self) -> Option<Instant> {
        let has_room = self.has_room();
        let held = self.held.as_ref().map(|held| held.due).filter(|_| has_room);
        let retries = self.retries.iter().filter_map(|retry| retry.due).filter(|_| has_room).min();
        let in_flight = self.uring.in_flight().filter_map(|(_, _, context)| context.due).min();
        held.into_iter().chain(retries).chain(in_flight).min()
    }

    fn complete(&mut self, Completed { piece, mut context, outcome }: Completed<ReadContext>) {
        let retry = self.retry;
        add_time(&retry.counters.busy_ns, context.started.elapsed());
        let closed = retry.gate.is_closed();
        let outcome = match outcome {
            Err(error) if is_cancellation(&error) && context.stage != Stage::Reading => {
                Err(io::Error::from(Errno::TIMEDOUT))
            }
            Err(error) if is_cancellation(&error) && closed => {
                let error = piece.origin().closed();
                return piece.end(Err(error));
            }
            outcome => outcome,
        };
        if context.stage == Stage::Abandoned {
            return piece.end(Ok(()));
        }
        let offset = piece.origin().offset + context.transfer.resume_offset() as u64;
        let Ok(outcome) = self.hook.map(&*context.storage, offset, outcome) else {
            return panicked(retry, piece);
        };
        let ended = match context.transfer.advance(retry, piece.origin(), outcome) {
            Step::Done => Ok(()),
            Step::Failed(error) => Err(error),
            Step::Retry { .. } if closed => Err(piece.origin().closed()),
            Step::Retry { pause } => {
                let due = Instant::now().checked_add(pause);
                return self.retries.push(RetryLater { due, piece, context });
            }
        };
        retry.count(&ended);
        match &ended {
            Ok(()) => retry.drop_cached(&*context.storage, piece.origin(), context.wanted_bytes),
            Err(error) => tracing::warn!(%error, "a chunk failed"),
        }
        piece.end(ended);
    }

    /// Cancels reads that exceed the timeout, and abandons those whose cancellation exceeds it too.
    fn cancel_overdue(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut late = Vec::new();
        for (user_data, piece, context) in self.uring.in_flight() {
            if context.due.is_none_or(|due| due > now) {
                continue;
            }
            let origin = piece.origin();
            match context.stage {
                Stage::Reading => {
                    let time = self.read_timeout;
                    tracing::warn!(path = %origin.path.display(), offset = origin.offset, ?time, "a read timed out");
                    context.stage = Stage::Cancelled;
                    context.due = now.checked_add(self.read_timeout);
                    late.push(user_data);
                }
                Stage::Cancelled => {
                    context.stage = Stage::Abandoned;
                    context.due = None;
                    let error = context.transfer.error(origin, Some(Errno::TIMEDOUT.into()));
                    tracing::error!(%error, "a read cannot be cancelled: its slot stays in use");
                    self.retry.count(&Err(error));
                    piece.abandon(context.transfer.error(origin, Some(Errno::TIMEDOUT.into())));
                }
                Stage::Abandoned => {}
            }
        }
        late.into_iter().try_for_each(|user_data| self.uring.cancel(user_data))
    }
}

/// Returns whether an error means that a read was cancelled: in a queue, or in a kernel worker thread.
fn is_cancellation(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::CANCELED | Errno::INTR))
}
