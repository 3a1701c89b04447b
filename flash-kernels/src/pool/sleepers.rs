//! Workers that sleep between jobs, and how they are woken: as a tree, so that with many workers nobody wakes more than a few.
//!
//! The caller wakes the first [`FAN_OUT`] workers, and each worker that enters a job wakes [`FAN_OUT`] others before it works. One
//! that is awake already finds the job by itself, and wakes those behind it likewise.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

/// Workers that one thread wakes: waking takes a system call of a few µs, so 64 threads are awake after three steps of four
/// calls instead of 63 calls, and pools of up to five threads are woken by the caller alone.
const FAN_OUT: usize = 4;

/// The workers of a pool, as far as sleep is concerned.
#[derive(Debug)]
pub(super) struct Sleepers(Vec<Sleeper>);

#[derive(Debug, Default)]
struct Sleeper {
    /// Whether it sleeps, or is about to.
    is_asleep: AtomicBool,
    /// Set by itself before it sleeps for the first time.
    thread: OnceLock<Thread>,
}

impl Sleepers {
    pub(super) fn new(n_workers: usize) -> Self {
        Self((0..n_workers).map(|_| Sleeper::default()).collect())
    }

    /// Wakes the first workers for a job that was opened before.
    pub(super) fn wake_first(&self) {
        self.wake(0);
    }

    /// Wakes the workers behind the worker `worker_idx`, which calls this when it enters a job.
    pub(super) fn wake_behind(&self, worker_idx: usize) {
        self.wake((worker_idx + 1) * FAN_OUT);
    }

    fn wake(&self, first: usize) {
        for sleeper in self.0.iter().skip(first).take(FAN_OUT) {
            if sleeper.is_asleep.swap(false, Ordering::SeqCst)
                && let Some(thread) = sleeper.thread.get()
            {
                thread.unpark();
            }
        }
    }

    /// Sleeps until the condition is `ready`; called by the worker `worker_idx`. Whoever makes it true wakes the worker behind
    /// that.
    pub(super) fn sleep_until(&self, worker_idx: usize, ready: &dyn Fn() -> bool) {
        let sleeper = &self.0[worker_idx];
        sleeper.thread.get_or_init(thread::current);
        loop {
            // Said before the look: whoever opens a job after the look reads it. Said again after each sleep, for the job that
            // ended this one may be closed already.
            sleeper.is_asleep.store(true, Ordering::SeqCst);
            if ready() {
                break;
            }
            thread::park();
        }
        sleeper.is_asleep.store(false, Ordering::SeqCst);
    }
}
