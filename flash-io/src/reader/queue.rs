//! Queue of pending reads with two priorities.

use std::collections::VecDeque;

use crate::sync::{Condvar, Mutex};

/// Priority of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Needed, now or soon.
    Demand,
    /// Possibly needed; taken only if no demand item is queued.
    Speculative,
}

/// Blocking queue with two lanes. A closed queue is empty and drops new items.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    demand: VecDeque<T>,
    speculative: VecDeque<T>,
    is_closed: bool,
}

impl<T> State<T> {
    fn pop(&mut self) -> Option<T> {
        self.demand.pop_front().or_else(|| self.speculative.pop_front())
    }
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let state = State { demand: VecDeque::new(), speculative: VecDeque::new(), is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Appends an item to its lane; drops it if the queue is closed.
    pub(super) fn push(&self, lane: Lane, item: T) {
        let mut state = self.state.lock();
        if state.is_closed {
            // Unlocked first, because dropping an item may take other locks.
            drop(state);
            return drop(item);
        }
        match lane {
            Lane::Demand => state.demand.push_back(item),
            Lane::Speculative => state.speculative.push_back(item),
        }
        self.changed.notify_one();
    }

    /// Takes the next item, if there is one.
    #[cfg(any(target_os = "linux", loom))]
    pub(super) fn try_pop(&self) -> Option<T> {
        self.state.lock().pop()
    }

    /// Takes the next item, waiting for one; `None` if the queue is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            match state.pop() {
                Some(item) => return Some(item),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Moves the speculative items that match `is_match` to the end of the demand lane.
    pub(super) fn promote(&self, is_match: impl Fn(&T) -> bool) {
        let state = &mut *self.state.lock();
        for item in std::mem::take(&mut state.speculative) {
            let lane = if is_match(&item) { &mut state.demand } else { &mut state.speculative };
            lane.push_back(item);
        }
    }

    /// Drops the speculative items that match `is_match`.
    pub(super) fn discard(&self, is_match: impl Fn(&T) -> bool) {
        let mut state = self.state.lock();
        let (discarded, kept): (VecDeque<T>, VecDeque<T>) =
            std::mem::take(&mut state.speculative).into_iter().partition(is_match);
        state.speculative = kept;
        drop(state);
        drop(discarded);
    }

    /// Closes the queue, drops all items, and wakes all waiters.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let dropped = (std::mem::take(&mut state.demand), std::mem::take(&mut state.speculative));
        self.changed.notify_all();
        drop(state);
        drop(dropped);
    }
}

/// Closes a queue on drop, so that no one waits for items that no thread reads any more.
#[cfg(target_os = "linux")]
pub(super) struct CloseOnDrop<'a, T>(pub(super) &'a Queue<T>);

#[cfg(target_os = "linux")]
impl<T> Drop for CloseOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn queue(demand: &[u32], speculative: &[u32]) -> Queue<u32> {
        let queue = Queue::new();
        speculative.iter().for_each(|item| queue.push(Lane::Speculative, *item));
        demand.iter().for_each(|item| queue.push(Lane::Demand, *item));
        queue
    }

    fn all(queue: &Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.state.lock().pop()).collect()
    }

    #[test]
    fn demand_precedes_speculative_and_each_lane_keeps_its_order() {
        assert_eq!(all(&queue(&[1, 2], &[3, 4])), [1, 2, 3, 4]);
    }

    #[test]
    fn promoted_items_follow_earlier_demand() {
        let queue = queue(&[1], &[2, 3, 4, 5]);
        queue.promote(|item| item % 2 == 1);
        queue.push(Lane::Demand, 6);
        assert_eq!(all(&queue), [1, 3, 5, 6, 2, 4]);
    }

    #[test]
    fn only_speculative_items_are_discarded() {
        let queue = queue(&[1, 2], &[3, 4]);
        queue.discard(|_| true);
        assert_eq!(all(&queue), [1, 2]);
    }

    #[test]
    fn closed_queue_takes_no_items_and_blocks_no_waiter() {
        let queue = queue(&[1], &[2]);
        queue.close();
        queue.push(Lane::Demand, 3);
        assert_eq!(queue.pop(), None);
        assert!(all(&queue).is_empty());
    }
}
