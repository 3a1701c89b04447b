//! Sleeping and waking of workers between jobs. Workers are woken as a tree, so that no thread wakes more than a few.
//!
//! The caller wakes the first [`FAN_OUT`] workers, and each worker that enters a job wakes its [`FAN_OUT`] children
//! before it works. A worker that is already awake finds the job by itself, and wakes its children too.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

/// Workers that one thread wakes. Waking takes a system call of a few µs: 64 threads are awake after three steps of
/// four calls instead of 63 calls, and the caller alone wakes pools of up to five threads.
const FAN_OUT: usize = 4;

/// Sleep state of the workers of a pool.
#[derive(Debug)]
pub(super) struct Sleepers(Vec<Sleeper>);

#[derive(Debug, Default)]
struct Sleeper {
    /// Set while the worker sleeps or is about to.
    is_asleep: AtomicBool,
    /// Set by the worker before it first sleeps.
    thread: OnceLock<Thread>,
}

impl Sleepers {
    pub(super) fn new(n_workers: usize) -> Self {
        Self((0..n_workers).map(|_| Sleeper::default()).collect())
    }

    /// Wakes the roots of the tree for a job that is already open.
    pub(super) fn wake_roots(&self) {
        self.wake(0);
    }

    /// Wakes the children of the worker `worker_idx`, which calls this when it enters a job.
    pub(super) fn wake_children(&self, worker_idx: usize) {
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

    /// Sleeps until `ready` returns true; called by the worker `worker_idx`. A thread that makes the condition true
    /// must then wake the worker.
    pub(super) fn sleep_until(&self, worker_idx: usize, ready: &dyn Fn() -> bool) {
        let sleeper = &self.0[worker_idx];
        sleeper.thread.get_or_init(thread::current);
        loop {
            // Store before checking, so that a thread that opens a job after the check sees the flag. Store again after
            // each wake-up, because the job that caused it may be closed already.
            sleeper.is_asleep.store(true, Ordering::SeqCst);
            if ready() {
                break;
            }
            thread::park();
        }
        sleeper.is_asleep.store(false, Ordering::SeqCst);
    }
}
