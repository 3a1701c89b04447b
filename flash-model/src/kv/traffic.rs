//! Counters of page reads and sealing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts bytes of pages read, the time attention waited for them, and the time spent on sealing. Clones share their
/// counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageCounters(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    read_bytes: AtomicU64,
    waited_ns: AtomicU64,
    sealing_ns: AtomicU64,
}

impl PageCounters {
    pub(super) fn add(&self, read_bytes: usize, waited: Duration) {
        self.0.read_bytes.fetch_add(read_bytes as u64, Ordering::Relaxed);
        self.0.waited_ns.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn add_sealing(&self, time: Duration) {
        self.0.sealing_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn sealing(&self) -> Duration {
        Duration::from_nanos(self.0.sealing_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.0.read_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.0.waited_ns.load(Ordering::Relaxed))
    }
}
