//! Waiting for slots, and for memory of the budget, to be released.

use std::time::{Duration, Instant};

use flash_io::{CancelledReads, IoError, Reader};

/// Time limit for the return of memory that is neither computed with nor read into. Another thread releases it a moment
/// after the results computed from it are available.
pub(crate) const SLOT_RETURN: Duration = Duration::from_secs(2);
/// Interval at which abandoned reads are checked while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Pause between two attempts to allocate from a budget.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Waits until `take_within`, which waits for at most the given time, returns a value. Returns `None` if it has
/// returned none for `held_limit` although no abandoned read is in progress: then something else holds the memory.
///
/// An abandoned read keeps its memory until the disk answers, and is waited for like any other read: a disk may have to
/// spin up, and a network file system to find its server.
///
/// # Errors
/// [`IoError::CancelledReads`] if abandoned reads have not ended within the reader's timeout for them.
pub(crate) fn wait_for<T>(
    reader: &Reader,
    held_limit: Duration,
    mut take_within: impl FnMut(Duration) -> Option<T>,
) -> Result<Option<T>, IoError> {
    let begin = Instant::now();
    let mut last_read = begin;
    loop {
        if let Some(taken) = take_within(POLL_INTERVAL.min(held_limit)) {
            return Ok(Some(taken));
        }
        match reader.cancelled_reads() {
            None if last_read.elapsed() >= held_limit => return Ok(None),
            None => {}
            Some(CancelledReads { path, offset, n_bundles, .. }) => {
                last_read = Instant::now();
                let waited = begin.elapsed();
                if waited >= reader.cancel_timeout() {
                    return Err(IoError::CancelledReads { path, offset, n_bundles, waited });
                }
            }
        }
    }
}

/// Allocates from a budget with `make`, retrying while the budget is exhausted until memory is released or `is_over`
/// returns true.
///
/// # Errors
/// Errors of `make` and of [`wait_for`].
pub(crate) fn once_there_is_room<T>(
    reader: &Reader,
    held_limit: Duration,
    is_over: impl Fn() -> bool,
    make: impl Fn() -> Result<T, IoError>,
) -> Result<T, IoError> {
    let made = wait_for(reader, held_limit, |_| match make() {
        Err(IoError::OverBudget { .. }) if !is_over() => {
            std::thread::sleep(RETRY_INTERVAL);
            None
        }
        made => Some(made),
    })?;
    made.unwrap_or_else(make)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::sync::{Arc, Mutex};

    use flash_io::{Budget, BundleLayout, PageBuf, ReadAt, ReaderConfig, Shard, ShardIdx, SlotPool, Span};

    use super::*;

    const SLOT_BYTES: usize = 4096;
    /// Shorter than every stall of these tests.
    const HELD_LIMIT: Duration = Duration::from_millis(10);
    const STALL: Duration = Duration::from_millis(100);

    /// Storage whose reads block until the test releases them.
    #[derive(Debug)]
    struct Stalled {
        let_go: Mutex<Receiver<()>>,
        begun: Arc<AtomicBool>,
    }

    impl ReadAt for Stalled {
        fn read_at(&self, _: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.begun.store(true, Ordering::SeqCst);
            // The sender is dropped at the end of a test.
            let _ = self.let_go.lock().unwrap().recv();
            Ok(buf.len())
        }

        fn len_bytes(&self) -> io::Result<u64> {
            Ok(SLOT_BYTES as u64)
        }

        fn alignment(&self) -> usize {
            1
        }
    }

    struct Setup {
        begun: Arc<AtomicBool>,
        let_go: Sender<()>,
        reader: Reader,
        budget: Budget,
        pool: SlotPool,
    }

    /// Creates a pool of one slot, which takes the whole budget.
    fn setup(read_timeout: Duration) -> Setup {
        let (let_go, stalled) = mpsc::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let storage = Stalled { let_go: Mutex::new(stalled), begun: Arc::clone(&begun) };
        let shard = Shard::new("stalled".into(), Arc::new(storage));
        let config = ReaderConfig { depth: 1, read_timeout, ..ReaderConfig::default() };
        let budget = Budget::new(PageBuf::cost_bytes(SLOT_BYTES));
        let pool = SlotPool::new(&budget, SLOT_BYTES, 1).unwrap();
        Setup { begun, let_go, reader: Reader::new(vec![shard], config).unwrap(), budget, pool }
    }

    impl Setup {
        /// Abandons the read into the only slot while it is in progress.
        fn give_up(&self) {
            let bundle = BundleLayout::new(&[(ShardIdx(0), Span::new(0, SLOT_BYTES as u64))]);
            let ticket = self.reader.submit(&Arc::new(bundle), self.pool.try_acquire().unwrap());
            while !self.begun.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            drop(ticket);
        }

        /// Abandons the read, which then ends much later than `HELD_LIMIT`.
        fn stall(&self) {
            self.give_up();
            let let_go = self.let_go.clone();
            std::thread::spawn(move || {
                std::thread::sleep(STALL);
                let_go.send(())
            });
        }
    }

    #[test]
    fn slot_that_is_still_read_into_is_waited_for_longer_than_one_that_is_held() {
        let setup = setup(Duration::from_secs(30));
        setup.stall();
        let slot = wait_for(&setup.reader, HELD_LIMIT, |limit| setup.pool.acquire_within(limit));
        assert!(slot.unwrap().is_some());
    }

    #[test]
    fn memory_that_is_still_read_into_is_waited_for_before_the_budget_is_too_small() {
        let setup = setup(Duration::from_secs(30));
        setup.stall();
        let Setup { pool, reader, budget, .. } = setup;
        drop(pool);
        once_there_is_room(&reader, HELD_LIMIT, || false, || SlotPool::new(&budget, SLOT_BYTES, 1)).unwrap();
    }

    #[test]
    fn slot_that_is_held_while_nothing_is_read_is_not_waited_for() {
        let setup = setup(Duration::from_secs(30));
        let held = setup.pool.try_acquire().unwrap();
        let slot = wait_for(&setup.reader, HELD_LIMIT, |limit| setup.pool.acquire_within(limit));
        assert!(slot.unwrap().is_none());
        let over =
            once_there_is_room(&setup.reader, HELD_LIMIT, || false, || SlotPool::new(&setup.budget, 1, 1));
        assert!(matches!(over, Err(IoError::OverBudget { .. })));
        drop(held);
    }

    #[test]
    fn read_that_never_ends_is_named_by_the_error() {
        let setup = setup(Duration::from_millis(10));
        setup.give_up();
        let slot = wait_for(&setup.reader, HELD_LIMIT, |limit| setup.pool.acquire_within(limit));
        let Err(error) = slot else { panic!("the read does not end") };
        assert!(
            matches!(&error, IoError::CancelledReads { path, n_bundles: 1, .. } if path.ends_with("stalled"))
        );
        assert!(error.to_string().starts_with("stalled: the disk does not answer"), "{error}");
        // Dropping the reader would wait for the read otherwise.
        setup.let_go.send(()).unwrap();
    }
}
