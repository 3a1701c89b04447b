//! Read-ahead: loads bundles in execution order, each as soon as a slot is free.
//!
//! A separate thread waits for slots. A bundle is thus read while the layer before it computes *and* while the thread
//! that runs the layers waits for another one. Slots may be released on any thread, when the last kernel that reads
//! them has ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flash_io::{Budget, IoError, Reader, Slot, SlotPool, Ticket};
use flash_sched::ResidencyPlan;
use parking_lot::{Condvar, Mutex};

use crate::memory::slots::{SLOT_RETURN, once_there_is_room};
use crate::stream::bundle::{Bundle, BundleIdx, Bundles};
use crate::stream::conduct::FeedbackLoop;
use crate::stream::control::Reads;

/// Timeout for memory of a pinned bundle when nothing is being read. It is shorter than the timeout of the thread that
/// waits for the bundle, so that this thread gets the budget's error.
const UNPOOLED_SLOT_RETURN: Duration = SLOT_RETURN.checked_div(2).expect("the divisor is not zero");

/// Everything needed to read bundles.
#[derive(Debug)]
pub(crate) struct Source {
    pub bundles: Arc<Bundles>,
    pub plan: ResidencyPlan,
    pub reader: Arc<Reader>,
    pub pool: SlotPool,
    pub budget: Budget,
    pub feedback: Arc<FeedbackLoop>,
}

impl Source {
    pub(crate) fn bundle(&self, idx: BundleIdx) -> &Bundle {
        &self.bundles.as_slice()[idx.0]
    }

    pub(crate) fn is_pinned(&self, idx: BundleIdx) -> bool {
        self.plan.pinned[idx.0]
    }

    /// Allocates memory for a pinned bundle, waiting for earlier memory to return to the budget. `is_over` cancels the
    /// wait.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if memory does not return, [`IoError::CancelledReads`] if that is because of the disk,
    /// [`IoError::Map`] if the system has no memory.
    pub(crate) fn unpooled_slot(&self, idx: BundleIdx, is_over: impl Fn() -> bool) -> Result<Slot, IoError> {
        let slot_bytes = self.bundle(idx).slot_bytes();
        once_there_is_room(&self.reader, UNPOOLED_SLOT_RETURN, is_over, || {
            Slot::unpooled(&self.budget, slot_bytes)
        })
    }

    pub(crate) fn submit(&self, idx: BundleIdx, slot: Slot) -> Load {
        Load { submitted: Instant::now(), ticket: self.bundle(idx).submit(&self.reader, slot) }
    }
}

/// The read-ahead thread.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    source: Arc<Source>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Index where the search for the next bundle to read begins.
    next: usize,
    /// Maximum bundles that are read, or being read, before they are requested.
    depth: usize,
    /// The bundle that is requested, which is read regardless of `depth`.
    demanded: Option<BundleIdx>,
    /// The load state of each pinned bundle.
    pinned: Vec<Pinned>,
    /// Bundles in slots of the pool, being read or read, that have not been requested yet.
    loads: VecDeque<(BundleIdx, Load)>,
    is_closed: bool,
}

/// A read of a bundle.
#[derive(Debug)]
pub(crate) struct Load {
    pub ticket: Ticket,
    /// Time of submission.
    pub submitted: Instant,
}

#[derive(Debug)]
enum Pinned {
    Empty,
    /// Being read, or read and not requested yet.
    Loading(Result<Load, IoError>),
    /// Handed out to the layer.
    Taken,
}

impl ReadAhead {
    /// Starts the thread at the bundle `next`; `is_there` says which pinned bundles are already in memory.
    pub(crate) fn start(
        source: Arc<Source>,
        next: BundleIdx,
        is_there: impl Fn(BundleIdx) -> bool,
    ) -> Result<Self, IoError> {
        let n_bundles = source.bundles.as_slice().len();
        let state = |idx| if is_there(BundleIdx(idx)) { Pinned::Taken } else { Pinned::Empty };
        let pinned = (0..n_bundles).map(state).collect();
        let BundleIdx(next) = next;
        let depth = source.plan.n_slots;
        let state = State { next, depth, demanded: None, pinned, loads: VecDeque::new(), is_closed: false };
        let shared = Arc::new(Shared { source, state: Mutex::new(state), changed: Condvar::new() });
        let body = {
            let shared = Arc::clone(&shared);
            move || shared.run()
        };
        let thread = thread::Builder::new().name("flash-read-ahead".to_owned()).spawn(body);
        let thread = thread.map_err(|error| IoError::Spawn { thread_idx: 0, error })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns the handle for the read controller.
    pub(crate) fn reads(&self) -> &dyn Reads {
        &*self.shared
    }

    /// Takes the load of a bundle, if it is being read or has been. If not, the bundle is read next.
    pub(crate) fn try_take(&self, idx: BundleIdx) -> Option<Result<Load, IoError>> {
        let mut state = self.shared.state.lock();
        state.seek(idx, &self.shared);
        state.take(idx, &self.shared)
    }

    /// Takes the load of a bundle, waiting until its read begins; `None` if it does not within `limit`.
    pub(crate) fn take_within(&self, idx: BundleIdx, limit: Duration) -> Option<Result<Load, IoError>> {
        let mut state = self.shared.state.lock();
        state.seek(idx, &self.shared);
        self.shared.changed.wait_while_for(&mut state, |state| !state.has(idx), limit);
        state.take(idx, &self.shared)
    }
}

impl State {
    fn has(&self, idx: BundleIdx) -> bool {
        matches!(self.pinned[idx.0], Pinned::Loading(_)) || self.loads.iter().any(|(found, _)| *found == idx)
    }

    fn take(&mut self, idx: BundleIdx, shared: &Shared) -> Option<Result<Load, IoError>> {
        let taken = self.find(idx);
        if taken.is_some() {
            self.demanded = None;
            // Another bundle may be read ahead in its place.
            shared.changed.notify_all();
        }
        taken
    }

    fn find(&mut self, idx: BundleIdx) -> Option<Result<Load, IoError>> {
        if let state @ Pinned::Loading(_) = &mut self.pinned[idx.0]
            && let Pinned::Loading(load) = std::mem::replace(state, Pinned::Taken)
        {
            return Some(load);
        }
        let at = self.loads.iter().position(|(found, _)| *found == idx)?;
        self.loads.remove(at).map(|(_, load)| Ok(load))
    }

    /// Makes `idx` the first of `loads`, or the next bundle to read. Usually it already is, as layers run in order.
    /// After an error they restart, and loads for other bundles are dropped.
    fn seek(&mut self, idx: BundleIdx, shared: &Shared) {
        if matches!(self.pinned[idx.0], Pinned::Loading(_)) {
            return;
        }
        let found = self.loads.iter().position(|(found, _)| *found == idx);
        self.loads.drain(..found.unwrap_or(self.loads.len()));
        if found.is_none() {
            // A pinned bundle is requested again only if its read failed.
            self.pinned[idx.0] = Pinned::Empty;
            self.next = idx.0;
            self.demanded = Some(idx);
            shared.changed.notify_all();
        }
    }

    /// Returns the next bundle to read; `None` if all are pinned and loaded, or enough is read ahead.
    fn due(&self, source: &Source) -> Option<BundleIdx> {
        let mut cycle = (self.next..self.pinned.len()).chain(0..self.next);
        let is_due = |idx: &usize| !source.plan.pinned[*idx] || matches!(self.pinned[*idx], Pinned::Empty);
        let idx = cycle.find(is_due).map(BundleIdx)?;
        let is_wanted =
            source.plan.pinned[idx.0] || self.loads.len() < self.depth || self.demanded == Some(idx);
        is_wanted.then_some(idx)
    }
}

impl Reads for Shared {
    fn set_depth(&self, depth: usize) {
        let mut state = self.state.lock();
        if state.depth != depth {
            state.depth = depth;
            self.changed.notify_all();
        }
    }

    fn ahead_bytes(&self) -> u64 {
        let state = self.state.lock();
        let done = state.loads.iter().take_while(|(_, load)| load.ticket.is_done());
        done.map(|(idx, _)| self.source.bundle(*idx).slot_bytes() as u64).sum()
    }
}

impl Shared {
    fn run(&self) {
        while let Some(idx) = self.wait_for_due() {
            let slot = if self.source.is_pinned(idx) {
                self.source.unpooled_slot(idx, || self.state.lock().is_closed)
            } else {
                match self.source.pool.acquire() {
                    Some(slot) => Ok(slot),
                    None => return,
                }
            };
            // A released slot means that a layer has been computed: decisions from that already apply to this read.
            self.source.feedback.update(Some(self));
            let mut state = self.state.lock();
            // Another bundle may have become due while this thread waited for the slot.
            if state.due(&self.source) == Some(idx) {
                state.next = (idx.0 + 1) % state.pinned.len();
                match slot {
                    Ok(slot) if !self.source.is_pinned(idx) => {
                        let load = self.source.submit(idx, slot);
                        state.loads.push_back((idx, load));
                    }
                    slot => {
                        let load = slot.map(|slot| self.source.submit(idx, slot));
                        state.pinned[idx.0] = Pinned::Loading(load);
                    }
                }
                self.changed.notify_all();
            }
        }
    }

    fn wait_for_due(&self) -> Option<BundleIdx> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(idx) = state.due(&self.source) {
                return Some(idx);
            }
            self.changed.wait(&mut state);
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.changed.notify_all();
        self.shared.source.pool.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the read-ahead thread panicked");
        }
    }
}
