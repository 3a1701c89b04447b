//! The loop of a reader thread.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::fill::Piece;
use super::stats::{add, add_time};
use super::transfer::Retry;
use crate::error::IoError;
use crate::storage::ReadAt;

/// Decides when chunks may be read.
pub trait Pace: Send + Sync + fmt::Debug {
    /// Asked once before each chunk of `bytes`, in their order; the chunk is read after the returned time, not before.
    ///
    /// It must not wait itself: with io_uring one thread serves all reads.
    fn admit(&self, bytes: u64) -> Duration;
}

/// One read call's worth of a bundle.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) piece: Piece,
    pub(super) storage: Arc<dyn ReadAt>,
    /// How many bytes at the front of the piece have to come; more than these only where alignment asks for
    /// it.
    pub(super) wanted_bytes: usize,
}

/// Reads chunks until the reader closes; those still queued then end as closed.
pub(super) fn run(chunks: &Receiver<Chunk>, retry: &Retry, pacer: Option<&dyn Pace>) {
    for mut chunk in chunks {
        if chunk.piece.is_cancelled() {
            chunk.piece.end(Ok(()));
            continue;
        }
        // A panic of a storage or a pacer ends its bundle, not this thread: the queue needs it.
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&mut chunk, retry, pacer)));
        match outcome {
            Ok(outcome) => chunk.piece.end(outcome),
            Err(_) => panicked(retry, chunk.piece),
        }
    }
}

/// Ends a piece whose storage or pacer panicked.
pub(super) fn panicked(retry: &Retry, piece: Piece) {
    add(&retry.counters.failures, 1);
    let origin = piece.origin();
    let error = IoError::ReadPanicked { path: origin.path.to_path_buf(), offset: origin.offset };
    piece.end(Err(error));
}

fn read(chunk: &mut Chunk, retry: &Retry, pacer: Option<&dyn Pace>) -> Result<(), IoError> {
    if let Some(pacer) = pacer {
        let asked = Instant::now();
        let pause = pacer.admit(chunk.wanted_bytes as u64);
        if !pause.is_zero() {
            retry.gate.sleep(pause);
            add_time(&retry.counters.paced_ns, asked.elapsed());
        }
    }
    let origin = chunk.piece.origin().clone();
    if retry.gate.is_closed() {
        return Err(origin.closed());
    }
    if chunk.piece.is_cancelled() {
        return Ok(());
    }
    let active = retry.counters.active.enter();
    let result = retry.read(&*chunk.storage, &origin, chunk.piece.buf(), chunk.wanted_bytes);
    drop(active);
    if let Err(error) = &result {
        tracing::warn!(%error, "a chunk was given up");
    }
    result
}
