//! Free memory of a pool.

use std::collections::VecDeque;

use crate::pages::PageBuf;
use crate::sync::{Condvar, Mutex};

/// Free slots, shared by the pool, its acquired slots and the prefault thread.
#[derive(Debug)]
pub(super) struct FreeList {
    pub(super) state: Mutex<State>,
    /// Notified when a slot becomes free, or the pool closes.
    pub(super) changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    /// Last in, first out: the slot released last is the likeliest to be in the CPU caches.
    pub(super) free: VecDeque<PageBuf>,
    /// Number of slots that are not prefaulted yet.
    pub(super) n_unfaulted: usize,
    pub(super) is_closed: bool,
}

impl FreeList {
    pub(super) fn new(free: VecDeque<PageBuf>) -> Self {
        let state = State { free, n_unfaulted: 0, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds a slot that was acquired.
    pub(super) fn release(&self, pages: PageBuf) {
        self.state.lock().free.push_back(pages);
        self.changed.notify_one();
    }

    /// Adds a prefaulted slot; drops it and returns `false` if the pool is closed.
    pub(super) fn add_prefaulted(&self, pages: PageBuf) -> bool {
        let mut state = self.state.lock();
        if state.is_closed {
            return false;
        }
        state.n_unfaulted -= 1;
        // At the front: slots that were in use are likelier to be in the CPU caches.
        state.free.push_front(pages);
        drop(state);
        self.changed.notify_one();
        true
    }
}
