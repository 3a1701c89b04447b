//! The loop of a reader thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::fill::Piece;
use super::pace::{self, Pace, Panicked};
use super::queue::Queue;
use super::stats::{add, add_time};
use super::transfer::Retry;
use crate::error::IoError;
use crate::storage::ReadAt;

/// Part of a bundle that is read with one call.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) piece: Piece,
    pub(super) storage: Arc<dyn ReadAt>,
    /// Bytes that must be read, from the start of the piece; the rest is padding for alignment.
    pub(super) wanted_bytes: usize,
}

/// Reads chunks until the queue closes.
pub(super) fn run(chunks: &Queue<Chunk>, retry: &Retry, pacer: Option<&dyn Pace>) {
    while let Some(mut chunk) = chunks.pop() {
        if chunk.piece.is_cancelled() {
            chunk.piece.end(Ok(()));
            continue;
        }
        // A panic of a storage or pacer fails its bundle only: the thread must keep serving the queue.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pacer.map_or(Ok(()), |pacer| wait_for_turn(&chunk, retry, pacer))?;
            Ok(read(&mut chunk, retry))
        }));
        match outcome.unwrap_or(Err(Panicked)) {
            Ok(outcome) => chunk.piece.end(outcome),
            Err(Panicked) => panicked(retry, chunk.piece),
        }
    }
}

/// Fails a piece whose storage or pacer panicked.
pub(super) fn panicked(retry: &Retry, piece: Piece) {
    add(&retry.counters.failures, 1);
    let origin = piece.origin();
    let error = IoError::ReadPanicked { path: origin.path.to_path_buf(), offset: origin.offset };
    piece.end(Err(error));
}

/// Waits until the pacer admits the chunk, or the chunk is cancelled or the reader closed.
fn wait_for_turn(chunk: &Chunk, retry: &Retry, pacer: &dyn Pace) -> Result<(), Panicked> {
    let start = Instant::now();
    let booking = pace::book(pacer, chunk.wanted_bytes as u64)?;
    let mut is_held = false;
    while !retry.gate.is_closed()
        && !chunk.piece.is_cancelled()
        && let Some(pause) = pace::pause(&*booking)?
    {
        is_held = true;
        retry.gate.sleep(pause);
    }
    if is_held {
        add_time(&retry.counters.paced_ns, start.elapsed());
    }
    Ok(())
}

fn read(chunk: &mut Chunk, retry: &Retry) -> Result<(), IoError> {
    let origin = chunk.piece.origin().clone();
    if retry.gate.is_closed() {
        return Err(origin.closed());
    }
    if chunk.piece.is_cancelled() {
        return Ok(());
    }
    let active = retry.counters.active.enter();
    let fill = Arc::clone(chunk.piece.fill());
    let is_wanted = || !fill.is_cancelled();
    let result = retry.read(&*chunk.storage, &origin, chunk.piece.buf(), chunk.wanted_bytes, is_wanted);
    drop(active);
    match &result {
        Ok(()) => retry.drop_cached(&*chunk.storage, &origin, chunk.wanted_bytes),
        Err(error) => tracing::warn!(%error, "a chunk failed"),
    }
    result
}
