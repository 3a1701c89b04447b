//! What a reader has done so far.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Totals of a [`Reader`](crate::Reader) since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes that came from storage, those of retried reads and of alignment included.
    pub bytes: u64,
    /// Bytes of chunks that the page cache of the system held when they had been read, and was told to let go of: all of them
    /// where reads are not direct, and some where the file system ignores that they are to be. Linux only.
    pub cached_bytes: u64,
    /// Chunks and small reads that were completed.
    pub chunks: u64,
    /// Read calls that were made again.
    pub retries: u64,
    /// Read calls that were interrupted by a signal.
    pub interrupted: u64,
    /// Read calls that ended with any other error.
    pub io_errors: u64,
    /// Read calls that returned fewer bytes than had to come.
    pub short_reads: u64,
    /// Chunks and small reads that were given up.
    pub failures: u64,
    /// Time inside read calls, summed over threads.
    pub busy: Duration,
    /// Time during which chunks were read, by however many threads: `bytes` over this is what storage gave.
    pub active: Duration,
    /// Time that chunks were held back by the pacer, summed over threads.
    pub paced: Duration,
}

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

/// The time in which at least one thread was at work.
#[derive(Debug, Default)]
pub(super) struct ActiveTime {
    state: Mutex<Activity>,
}

#[derive(Debug, Default)]
struct Activity {
    /// How many threads are at work, and since when at least one is.
    threads: usize,
    since: Option<Instant>,
    total: Duration,
}

impl ActiveTime {
    /// Counts the calling thread as at work until the guard is dropped.
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

/// A thread at work.
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

/// Adds to one total; the totals order nothing else.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Adds a time to a total in nanoseconds.
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
    fn overlapping_work_counts_once_and_pauses_not_at_all() {
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
