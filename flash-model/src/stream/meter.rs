//! Measures the compute time of layers without waiting for them.
//!
//! Layers are submitted to MLX and not waited for, so the end of one is observed through its slot, which is released on
//! MLX's thread when the last kernel that reads it has run. Pinned layers have no slot: they are measured together with
//! the next streamed layer, or until the host waits for something anyway. Such a *group* is one sample.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::StatsHandle;
use parking_lot::Mutex;

use crate::kv::PageCounters;
use crate::stream::bundle::BundleIdx;

/// Read counters of an engine at one instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSnapshot {
    pub at: Instant,
    /// Bytes read so far.
    pub bytes: u64,
    /// Total time with a read in flight.
    pub active: Duration,
    /// Total time that attention waited for pages.
    pub waited: Duration,
}

impl ReadSnapshot {
    fn now(probe: &Probe) -> Self {
        let stats = probe.reads.stats();
        let waited = probe.pages.waited();
        Self { at: Instant::now(), bytes: stats.bytes, active: stats.active, waited }
    }
}

/// The counters that a meter samples.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub reads: StatsHandle,
    pub pages: PageCounters,
}

/// Bundles that were computed together, in execution order.
#[derive(Debug)]
pub(crate) struct Group {
    pub bundles: Vec<BundleIdx>,
    pub start: ReadSnapshot,
    pub end: ReadSnapshot,
}

impl Group {
    /// Returns the compute time of the group, without the time spent waiting for pages.
    pub(crate) fn compute(&self) -> Duration {
        let elapsed = self.end.at.saturating_duration_since(self.start.at);
        elapsed.saturating_sub(self.end.waited.saturating_sub(self.start.waited))
    }
}

/// Collects groups of bundles and their compute times.
#[derive(Debug)]
pub(crate) struct Meter {
    probe: Probe,
    released: Arc<ReleasedSlots>,
    /// Bundles of the group that has not been submitted yet.
    open: Vec<BundleIdx>,
    open_since: Option<ReadSnapshot>,
    /// Submitted groups that are not known to have ended.
    pending: VecDeque<PendingGroup>,
    next_serial: u64,
    last_end: ReadSnapshot,
}

#[derive(Debug)]
struct PendingGroup {
    bundles: Vec<BundleIdx>,
    submitted: ReadSnapshot,
    end: GroupEnd,
}

#[derive(Debug)]
enum GroupEnd {
    /// When the slot with the release timer of this serial number was released.
    WithSlot(u64),
    At(ReadSnapshot),
}

/// Released slots, by the serial number of their timer.
#[derive(Debug, Default)]
struct ReleasedSlots(Mutex<Vec<(u64, ReadSnapshot)>>);

/// A guard that is dropped together with a slot, and records the time.
#[derive(Debug)]
pub(crate) struct SlotReleaseTimer {
    serial: u64,
    probe: Probe,
    released: Arc<ReleasedSlots>,
}

impl Drop for SlotReleaseTimer {
    fn drop(&mut self) {
        self.released.0.lock().push((self.serial, ReadSnapshot::now(&self.probe)));
    }
}

impl Meter {
    pub(crate) fn new(probe: Probe) -> Self {
        Self {
            released: Arc::default(),
            open: Vec::new(),
            open_since: None,
            pending: VecDeque::new(),
            next_serial: 0,
            last_end: ReadSnapshot::now(&probe),
            probe,
        }
    }

    /// Begins a pass, and discards unfinished groups of a failed one.
    pub(crate) fn begin(&mut self) {
        self.open.clear();
        self.open_since = None;
        self.pending.clear();
        self.released.0.lock().clear();
        self.last_end = ReadSnapshot::now(&self.probe);
    }

    /// Adds a pinned bundle to the open group.
    pub(crate) fn add_pinned(&mut self, idx: BundleIdx) {
        self.open.push(idx);
        self.open_since.get_or_insert_with(|| ReadSnapshot::now(&self.probe));
    }

    /// Closes the open group with a streamed bundle, which is computed next. The timer has to be dropped together with
    /// its slot.
    pub(crate) fn close_group(&mut self, idx: BundleIdx) -> SlotReleaseTimer {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.open.push(idx);
        self.open_since = None;
        let bundles = std::mem::take(&mut self.open);
        let submitted = ReadSnapshot::now(&self.probe);
        self.pending.push_back(PendingGroup { bundles, submitted, end: GroupEnd::WithSlot(serial) });
        SlotReleaseTimer { serial, probe: self.probe.clone(), released: Arc::clone(&self.released) }
    }

    /// Closes the open group: nothing is computing.
    pub(crate) fn mark_idle(&mut self) {
        let Some(submitted) = self.open_since.take() else { return };
        let bundles = std::mem::take(&mut self.open);
        let end = GroupEnd::At(ReadSnapshot::now(&self.probe));
        self.pending.push_back(PendingGroup { bundles, submitted, end });
    }

    /// Returns the next group that has ended.
    pub(crate) fn next_ended(&mut self) -> Option<Group> {
        let end = match self.pending.front()?.end {
            GroupEnd::At(reading) => reading,
            GroupEnd::WithSlot(serial) => {
                let mut released = self.released.0.lock();
                let at = released.iter().position(|(found, _)| *found == serial)?;
                released.swap_remove(at).1
            }
        };
        let PendingGroup { bundles, submitted, .. } = self.pending.pop_front()?;
        let start = if submitted.at > self.last_end.at { submitted } else { self.last_end };
        self.last_end = end;
        Some(Group { bundles, start, end })
    }
}
