//! Closing gate: sleep that ends early when the reader closes.

use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

/// Flag that a reader is closing, which ends all sleeps.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: Mutex<bool>,
    closing: Condvar,
}

impl Gate {
    pub(super) fn close(&self) {
        *self.closed.lock() = true;
        self.closing.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.lock()
    }

    /// Sleeps for `time`, or until the gate closes, whichever is first.
    pub(super) fn sleep(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        // A time beyond the range of the clock ends only by closing.
        let until = Instant::now().checked_add(time);
        let mut closed = self.closed.lock();
        while !*closed {
            match until {
                Some(until) if self.closing.wait_until(&mut closed, until).timed_out() => return,
                Some(_) => {}
                None => self.closing.wait(&mut closed),
            }
        }
    }
}
