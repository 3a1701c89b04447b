//! Concurrent filling of one slot by several threads.
//!
//! [`split`] divides the slot into pieces, each the sole owner of its own range of bytes; the slot is returned when the
//! last piece has ended. This is the only place where threads write to shared memory; the kernel, too, writes only to
//! pieces (see `uring`).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::error::IoError;
use crate::pool::Slot;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};

/// A slot while it is being filled, and the outcome afterwards.
#[derive(Debug)]
pub(crate) struct Fill {
    /// Origin of the first piece; `None` if there are no pieces.
    origin: Option<Origin>,
    cancelled: AtomicBool,
    state: Mutex<State>,
    all_ended: Condvar,
}

#[derive(Debug)]
struct State {
    n_pending: usize,
    /// The whole slot, not accessed until no piece is pending; `None` once taken, or released because of an error.
    slot: Option<Slot>,
    error: Option<IoError>,
    /// Whether a stuck piece was abandoned, so that the waiter need not wait for it.
    abandoned: bool,
    /// When the last piece ended.
    ended: Option<Instant>,
}

impl State {
    fn is_done(&self) -> bool {
        self.n_pending == 0 || self.abandoned
    }
}

/// File and offset that a piece is read from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) path: Arc<Path>,
    pub(crate) offset: u64,
}

impl Origin {
    pub(crate) fn closed(&self) -> IoError {
        IoError::ReaderClosed { path: self.path.to_path_buf(), offset: self.offset }
    }
}

/// Sole owner of one range of a slot. Dropping it without [`end`](Self::end) fails the fill as closed.
#[derive(Debug)]
pub(crate) struct Piece {
    fill: Arc<Fill>,
    start: *mut u8,
    len_bytes: usize,
    origin: Origin,
    pending: bool,
}

#[expect(unsafe_code, reason = "a piece owns its range through a raw pointer")]
// SAFETY: a piece has exclusive access to its range (see `split`), like a `&mut [u8]`, and bytes may change threads.
unsafe impl Send for Piece {}

/// Splits a slot into pieces with these ranges, each to be filled from its origin.
///
/// # Panics
/// If the ranges are not ascending, disjoint and inside the slot.
pub(crate) fn split(mut slot: Slot, parts: Vec<(Range<usize>, Origin)>) -> (Arc<Fill>, Vec<Piece>) {
    let mut free_from = 0;
    for (range, _) in &parts {
        assert!(free_from <= range.start && range.start <= range.end, "pieces of a slot are disjoint");
        free_from = range.end;
    }
    assert!(free_from <= slot.len(), "pieces lie in their slot");

    let base = slot.as_mut_ptr();
    let state =
        State { n_pending: parts.len(), slot: Some(slot), error: None, abandoned: false, ended: None };
    let fill = Arc::new(Fill {
        origin: parts.first().map(|(_, origin)| origin.clone()),
        cancelled: AtomicBool::new(false),
        state: Mutex::new(state),
        all_ended: Condvar::new(),
    });
    let pieces = parts.into_iter().map(|(range, origin)| Piece {
        fill: Arc::clone(&fill),
        start: base.wrapping_add(range.start),
        len_bytes: range.len(),
        origin,
        pending: true,
    });
    let pieces = pieces.collect();
    (fill, pieces)
}

impl Piece {
    /// Returns the bytes to fill.
    pub(crate) fn buf(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "several threads write to disjoint ranges of one slot")]
        // SAFETY: `split` checked that the range lies in the slot and in no other piece. The slot's memory does not
        // move, and nothing reads or frees it before `n_pending` is 0: this piece counts there until it has ended,
        // which takes it by value, and `&mut self` excludes a second borrow of the same piece.
        unsafe {
            std::slice::from_raw_parts_mut(self.start, self.len_bytes)
        }
    }

    /// Returns the file and offset that the bytes are read from.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the fill that the piece belongs to.
    pub(crate) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// Returns whether the piece belongs to `fill`.
    pub(crate) fn is_of(&self, fill: &Arc<Fill>) -> bool {
        Arc::ptr_eq(&self.fill, fill)
    }

    /// Returns whether the fill was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.fill.is_cancelled()
    }

    /// Fails the fill now, although this piece ends at an unknown time. The slot is released when it has ended.
    #[cfg(any(target_os = "linux", test))]
    pub(crate) fn abandon(&self, error: IoError) {
        let mut state = self.fill.state.lock();
        self.fill.cancelled.store(true, Ordering::Relaxed);
        state.error.get_or_insert(error);
        state.abandoned = true;
        self.fill.all_ended.notify_all();
    }

    /// Ends the piece with its outcome. The first error cancels the pieces that have not begun.
    pub(crate) fn end(mut self, outcome: Result<(), IoError>) {
        self.pending = false;
        self.fill.end_one(outcome);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.pending {
            self.fill.end_one(Err(self.origin.closed()));
        }
    }
}

impl Fill {
    fn end_one(&self, outcome: Result<(), IoError>) {
        let mut state = self.state.lock();
        state.n_pending -= 1;
        if let Err(error) = outcome {
            self.cancelled.store(true, Ordering::Relaxed);
            state.error.get_or_insert(error);
        }
        if state.n_pending == 0 {
            state.ended = Some(Instant::now());
            if self.cancelled.load(Ordering::Relaxed) {
                // Before the waiter is notified, so that it finds the slot in its pool.
                state.slot = None;
            }
            self.all_ended.notify_all();
        }
    }

    /// Returns whether the fill was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Cancels the pieces that have not begun, and releases the slot when none is pending.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.n_pending == 0 {
            state.slot = None;
        }
    }

    /// Returns whether no piece is pending, or one was abandoned.
    pub(crate) fn is_done(&self) -> bool {
        self.state.lock().is_done()
    }

    /// Returns the origin of the first piece if any piece is pending.
    pub(crate) fn pending_origin(&self) -> Option<&Origin> {
        (self.state.lock().n_pending > 0).then_some(self.origin.as_ref()).flatten()
    }

    /// Returns when the last piece ended.
    pub(crate) fn ended(&self) -> Option<Instant> {
        self.state.lock().ended
    }

    /// Waits until no piece is pending, or one is abandoned.
    pub(crate) fn wait_until_done(&self) {
        let mut state = self.state.lock();
        while !state.is_done() {
            self.all_ended.wait(&mut state);
        }
    }

    /// Waits until the fill is done, and returns the slot or the first error.
    pub(crate) fn wait(&self) -> Result<Slot, IoError> {
        self.wait_until_done();
        let mut state = self.state.lock();
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok(state.slot.take().expect("a fill is waited for once and not after it was cancelled")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn parts(ranges: &[Range<usize>]) -> Vec<(Range<usize>, Origin)> {
        let origin = Origin { path: Path::new("shard").into(), offset: 7 };
        ranges.iter().map(|range| (range.clone(), origin.clone())).collect()
    }

    fn slot(len_bytes: usize) -> Slot {
        Slot::unpooled(&Budget::new(1 << 20), len_bytes).unwrap()
    }

    #[test]
    fn pieces_on_many_threads_write_their_own_bytes_only() {
        let ranges: Vec<_> = (0..100).map(|i| i * 10..i * 10 + 9).collect();
        let (fill, pieces) = split(slot(1000), parts(&ranges));
        std::thread::scope(|scope| {
            for (i, mut piece) in pieces.into_iter().enumerate() {
                scope.spawn(move || {
                    piece.buf().fill(i as u8 + 1);
                    piece.end(Ok(()));
                });
            }
        });
        let filled = fill.wait().unwrap();
        for (i, &byte) in filled.iter().enumerate() {
            assert_eq!(byte, if i % 10 == 9 { 0 } else { (i / 10) as u8 + 1 });
        }
    }

    #[test]
    #[should_panic(expected = "disjoint")]
    fn overlapping_pieces_are_a_bug_of_the_caller() {
        split(slot(100), parts(&[0..10, 9..20]));
    }

    #[test]
    #[should_panic(expected = "in their slot")]
    fn piece_past_the_slot_is_a_bug_of_the_caller() {
        split(slot(100), parts(&[0..90, 90..101]));
    }

    #[test]
    fn dropped_piece_fails_the_fill_with_its_origin() {
        let (fill, mut pieces) = split(slot(100), parts(&[0..10, 10..20]));
        drop(pieces.pop());
        assert!(pieces[0].is_cancelled() && !fill.is_done());
        pieces.remove(0).end(Ok(()));
        assert!(matches!(fill.wait(), Err(IoError::ReaderClosed { offset: 7, .. })));
    }

    #[test]
    fn abandoned_piece_fails_the_fill_at_once_and_keeps_its_slot_until_it_ends() {
        let pool = crate::pool::SlotPool::new(&Budget::new(1 << 20), 100, 1).unwrap();
        let (fill, mut pieces) = split(pool.try_acquire().unwrap(), parts(&[0..10, 10..20]));
        let stuck = pieces.remove(0);
        stuck.abandon(stuck.origin().closed());
        assert!(fill.wait().is_err());
        fill.cancel();
        pieces.remove(0).end(Ok(()));
        assert_eq!(pool.free_slots(), 0);
        stuck.end(Ok(()));
        assert_eq!(pool.free_slots(), 1);
    }
}
