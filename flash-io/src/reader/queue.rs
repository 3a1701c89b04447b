//! What waits to be read, in two lanes: what is wanted comes before everything that is only guessed to be.

use std::collections::VecDeque;

use crate::sync::{Condvar, Mutex};

/// How urgent something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Somebody waits for it, or will.
    Wanted,
    /// Somebody may.
    Guessed,
}

/// A queue between those who ask and those who read. Closed, it holds nothing and takes nothing.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    wanted: VecDeque<T>,
    guessed: VecDeque<T>,
    is_closed: bool,
}

impl<T> State<T> {
    fn pop(&mut self) -> Option<T> {
        self.wanted.pop_front().or_else(|| self.guessed.pop_front())
    }
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let state = State { wanted: VecDeque::new(), guessed: VecDeque::new(), is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds something at the end of its lane; drops it if the queue is closed.
    pub(super) fn push(&self, lane: Lane, item: T) {
        let mut state = self.state.lock();
        if state.is_closed {
            // Whoever owns it may take locks of its own when it goes.
            drop(state);
            return drop(item);
        }
        match lane {
            Lane::Wanted => state.wanted.push_back(item),
            Lane::Guessed => state.guessed.push_back(item),
        }
        self.changed.notify_one();
    }

    /// The next one, if there is one.
    #[cfg(any(target_os = "linux", loom))]
    pub(super) fn try_pop(&self) -> Option<T> {
        self.state.lock().pop()
    }

    /// Waits for the next one; none if the queue is closed.
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

    /// Those guessed of which `is` says so are wanted now, behind the others that are.
    pub(super) fn promote(&self, is: impl Fn(&T) -> bool) {
        let state = &mut *self.state.lock();
        for item in std::mem::take(&mut state.guessed) {
            let lane = if is(&item) { &mut state.wanted } else { &mut state.guessed };
            lane.push_back(item);
        }
    }

    /// Drops those guessed of which `is` says so.
    pub(super) fn discard(&self, is: impl Fn(&T) -> bool) {
        let mut state = self.state.lock();
        let (discarded, kept): (VecDeque<T>, VecDeque<T>) =
            std::mem::take(&mut state.guessed).into_iter().partition(is);
        state.guessed = kept;
        drop(state);
        drop(discarded);
    }

    /// Drops everything, and wakes whoever waits.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let dropped = (std::mem::take(&mut state.wanted), std::mem::take(&mut state.guessed));
        self.changed.notify_all();
        drop(state);
        drop(dropped);
    }
}

/// Closes a queue when it goes: nobody must wait for what nobody reads.
#[cfg(target_os = "linux")]
pub(super) struct ClosesOnDrop<'a, T>(pub(super) &'a Queue<T>);

#[cfg(target_os = "linux")]
impl<T> Drop for ClosesOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn queue(wanted: &[u32], guessed: &[u32]) -> Queue<u32> {
        let queue = Queue::new();
        guessed.iter().for_each(|item| queue.push(Lane::Guessed, *item));
        wanted.iter().for_each(|item| queue.push(Lane::Wanted, *item));
        queue
    }

    fn all(queue: &Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.state.lock().pop()).collect()
    }

    #[test]
    fn wanted_overtakes_guessed_and_each_lane_keeps_its_order() {
        assert_eq!(all(&queue(&[1, 2], &[3, 4])), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_promoted_comes_behind_what_was_wanted_before() {
        let queue = queue(&[1], &[2, 3, 4, 5]);
        queue.promote(|item| item % 2 == 1);
        queue.push(Lane::Wanted, 6);
        assert_eq!(all(&queue), [1, 3, 5, 6, 2, 4]);
    }

    #[test]
    fn only_guesses_are_discarded() {
        let queue = queue(&[1, 2], &[3, 4]);
        queue.discard(|_| true);
        assert_eq!(all(&queue), [1, 2]);
    }

    #[test]
    fn closed_queue_takes_nothing_and_holds_nobody() {
        let queue = queue(&[1], &[2]);
        queue.close();
        queue.push(Lane::Wanted, 3);
        assert_eq!(queue.pop(), None);
        assert!(all(&queue).is_empty());
    }
}
