//! How long layers compute, although nobody waits for them.
//!
//! Layers are handed to MLX and not waited for, so the end of one is learned from its slot: it comes back on MLX's thread when
//! the last kernel that reads it has run. Pinned layers have no slot, and are measured together with the streamed layer
//! behind them, or until the host waits for something anyway. Such a *group* is one sample.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::StatsHandle;
use parking_lot::Mutex;

use crate::kv::PageTraffic;
use crate::stream::bundle::BundleIdx;

/// The reads of an engine at some instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSnapshot {
    pub at: Instant,
    /// Bytes that have come so far.
    pub bytes: u64,
    /// For how long something was being read.
    pub active: Duration,
    /// How long attention has waited for pages.
    pub waited: Duration,
}

impl ReadSnapshot {
    fn now(probe: &Probe) -> Self {
        let stats = probe.reads.stats();
        let waited = probe.pages.waited();
        Self { at: Instant::now(), bytes: stats.bytes, active: stats.active, waited }
    }
}

/// What is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub reads: StatsHandle,
    pub pages: PageTraffic,
}

/// Bundles that were computed together, in execution order.
#[derive(Debug)]
pub(crate) struct Group {
    pub bundles: Vec<BundleIdx>,
    pub start: ReadSnapshot,
    pub end: ReadSnapshot,
}

impl Group {
    /// How long it was computed: waiting for pages is not computing.
    pub(crate) fn compute(&self) -> Duration {
        let elapsed = self.end.at.saturating_duration_since(self.start.at);
        elapsed.saturating_sub(self.end.waited.saturating_sub(self.start.waited))
    }
}

/// Collects groups.
#[derive(Debug)]
pub(crate) struct Meter {
    probe: Probe,
    released: Arc<ReleasedSlots>,
    /// Bundles of the group that is not handed over yet.
    open: Vec<BundleIdx>,
    open_since: Option<ReadSnapshot>,
    /// Handed over, and not known to have end.
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
    /// When the slot with this release_timer came back.
    WithSlot(u64),
    At(ReadSnapshot),
}

/// Slots that came back, by the serial number of their release_timer.
#[derive(Debug, Default)]
struct ReleasedSlots(Mutex<Vec<(u64, ReadSnapshot)>>);

/// Goes with a slot, and tells when it came back.
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

    /// Forgets what has not end: a pass begins, maybe behind one that failed.
    pub(crate) fn begin(&mut self) {
        self.open.clear();
        self.open_since = None;
        self.pending.clear();
        self.released.0.lock().clear();
        self.last_end = ReadSnapshot::now(&self.probe);
    }

    /// A pinned bundle is computed with, some time.
    pub(crate) fn pinned(&mut self, idx: BundleIdx) {
        self.open.push(idx);
        self.open_since.get_or_insert_with(|| ReadSnapshot::now(&self.probe));
    }

    /// A streamed bundle is there, and will be computed with at once: ends a group. The release_timer is to go with its slot.
    pub(crate) fn streamed(&mut self, idx: BundleIdx) -> SlotReleaseTimer {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.open.push(idx);
        self.open_since = None;
        let bundles = std::mem::take(&mut self.open);
        let submitted = ReadSnapshot::now(&self.probe);
        self.pending.push_back(PendingGroup { bundles, submitted, end: GroupEnd::WithSlot(serial) });
        SlotReleaseTimer { serial, probe: self.probe.clone(), released: Arc::clone(&self.released) }
    }

    /// Nothing computes any more: what is open was a group.
    pub(crate) fn mark_idle(&mut self) {
        let Some(submitted) = self.open_since.take() else { return };
        let bundles = std::mem::take(&mut self.open);
        let end = GroupEnd::At(ReadSnapshot::now(&self.probe));
        self.pending.push_back(PendingGroup { bundles, submitted, end });
    }

    /// The next group that has end.
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
