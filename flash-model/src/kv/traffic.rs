//! Counters of page reads, writes and sealing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::KvStats;

/// Counts bytes of pages read and written by all contexts, the time attention waited for them, and the time spent on
/// sealing. Clones share their counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageCounters(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    waited_ns: AtomicU64,
    sealing_ns: AtomicU64,
}

impl PageCounters {
    pub(super) fn add(&self, read_bytes: usize, waited: Duration) {
        self.0.read_bytes.fetch_add(read_bytes as u64, Ordering::Relaxed);
        self.0.waited_ns.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Counts a page that is queued for writing.
    pub(super) fn add_written(&self, bytes: usize) {
        self.0.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_sealing(&self, time: Duration) {
        self.0.sealing_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Returns the statistics so far.
    pub(crate) fn stats(&self) -> KvStats {
        KvStats {
            written_bytes: self.0.written_bytes.load(Ordering::Relaxed),
            read_bytes: self.read_bytes(),
            waited: self.waited(),
            sealing: Duration::from_nanos(self.0.sealing_ns.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.0.read_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.0.waited_ns.load(Ordering::Relaxed))
    }
}
