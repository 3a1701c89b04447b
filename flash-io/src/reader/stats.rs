//! Statistics of a reader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Totals of a [`Reader`](crate::Reader) since its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes read from storage, including those of retried reads and padding for alignment.
    pub bytes: u64,
    /// Bytes of chunks that were in the page cache after their read, and evicted: all chunks of buffered reads, and
    /// those of direct reads that the file system buffers anyway. Linux only.
    pub cached_bytes: u64,
    /// Completed chunks, and small reads by [`read_exact_at`](crate::Reader::read_exact_at).
    pub chunks: u64,
    /// Retried read calls.
    pub retries: u64,
    /// Read calls interrupted by a signal.
    pub interrupted: u64,
    /// Read calls that ended with any other error.
    pub io_errors: u64,
    /// Read calls that returned fewer bytes than required.
    pub short_reads: u64,
    /// Failed chunks and small reads.
    pub failures: u64,
    /// Time that read calls took, summed over concurrent reads: up to the queue depth times
    /// [`active`](Stats::active).
    pub busy: Duration,
    /// Time during which at least one chunk was being read: `bytes` divided by it is the rate of the storage.
    pub active: Duration,
    /// Time that the pacer held chunks back, summed over threads.
    pub paced: Duration,
}

/// Counters behind [`Stats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) bytes: AtomicU64,
    pub(super) cached_bytes: AtomicU64,
    pub(super) chunks: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) interrupted: AtomicU64,
    pub(super) io_errors: AtomicU64,
    pub(super) short_reads: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) busy_ns: AtomicU64,
    pub(super) paced_ns: AtomicU64,
    pub(super) active: ActiveTime,
}

/// Time during which at least one thread was reading.
#[derive(Debug, Default)]
pub(super) struct ActiveTime {
    state: Mutex<Activity>,
}

#[derive(Debug, Default)]
struct Activity {
    /// Number of threads that are reading.
    threads: usize,
    /// When the first of them started.
    since: Option<Instant>,
    total: Duration,
}

impl ActiveTime {
    /// Counts the calling thread as reading until the guard is dropped.
    pub(super) fn enter(&self) -> ActiveGuard<'_> {
        let mut state = self.state.lock();
        state.threads += 1;
        state.since.get_or_insert_with(Instant::now);
        ActiveGuard { time: self }
    }

    fn total(&self) -> Duration {
        let state = self.state.lock();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Guard of a thread that is reading.
#[derive(Debug)]
pub(super) struct ActiveGuard<'a> {
    time: &'a ActiveTime,
}

impl Drop for ActiveGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.time.state.lock();
        state.threads -= 1;
        if state.threads == 0
            && let Some(since) = state.since.take()
        {
            state.total += since.elapsed();
        }
    }
}

/// Adds to a counter. Relaxed, because no other memory depends on the order of counters.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Adds a time to a counter of nanoseconds.
pub(super) fn add_time(counter: &AtomicU64, time: Duration) {
    add(counter, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

impl Counters {
    pub(super) fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            bytes: get(&self.bytes),
            cached_bytes: get(&self.cached_bytes),
            chunks: get(&self.chunks),
            retries: get(&self.retries),
            interrupted: get(&self.interrupted),
            io_errors: get(&self.io_errors),
            short_reads: get(&self.short_reads),
            failures: get(&self.failures),
            busy: Duration::from_nanos(get(&self.busy_ns)),
            active: self.active.total(),
            paced: Duration::from_nanos(get(&self.paced_ns)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn overlapping_reads_count_once_and_pauses_do_not_count() {
        const STEP: Duration = Duration::from_millis(20);
        let time = ActiveTime::default();
        let begin = Instant::now();
        let first = time.enter();
        let second = time.enter();
        sleep(STEP);
        drop(first);
        sleep(STEP);
        drop(second);
        let worked = begin.elapsed();
        let total = time.total();
        assert!(total >= 2 * STEP && total <= worked, "{total:?} of {worked:?}");
        sleep(STEP);
        assert_eq!(time.total(), total);
    }
}
