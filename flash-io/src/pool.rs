//! Pools of slots: reusable memory for bundles.

mod free_list;
mod prefault;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::Duration;

use self::free_list::{FreeList, State};
use crate::budget::Budget;
use crate::error::IoError;
use crate::pages::{LEAD_BYTES, PageBuf};

/// Fixed number of slots of equal size, all reserved from the budget when the pool is created.
///
/// Dropping the pool frees its free slots at once, and each acquired slot when that is dropped.
#[derive(Debug)]
pub struct SlotPool {
    free_list: Arc<FreeList>,
    slot_bytes: usize,
    n_slots: usize,
}

impl SlotPool {
    /// Creates a pool of `n_slots` slots of `slot_bytes` each.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if the slots do not all fit, [`IoError::Map`] if the system has no memory.
    pub fn new(budget: &Budget, slot_bytes: usize, n_slots: usize) -> Result<Self, IoError> {
        let free = (0..n_slots).map(|_| PageBuf::new(slot_bytes, budget)).collect::<Result<_, _>>()?;
        Ok(Self { free_list: Arc::new(FreeList::new(free)), slot_bytes, n_slots })
    }

    /// Creates a pool whose slots are prefaulted in the background, for memory that is needed gradually.
    ///
    /// `n_first` slots are free at once; the others become [ready](Self::ready_slots) as a background thread touches
    /// them, so that no read waits for the system to allocate memory. A virtual machine may have to request each page
    /// from its host, slower than a disk reads (docs/performance.md). In a small pool all slots are free at once.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn prefaulting(
        budget: &Budget,
        slot_bytes: usize,
        n_slots: usize,
        n_first: usize,
    ) -> Result<Self, IoError> {
        let pool = Self::new(budget, slot_bytes, n_slots)?;
        if (n_slots * slot_bytes) as u64 >= prefault::BYTES_MIN {
            let unfaulted = {
                let mut state = pool.free_list.state.lock();
                let unfaulted = state.free.split_off(n_first.min(n_slots));
                state.n_unfaulted = unfaulted.len();
                unfaulted
            };
            prefault::start(&pool.free_list, unfaulted);
        }
        Ok(pool)
    }

    /// Acquires a slot, `None` if none is free. Its bytes are those of its previous use.
    pub fn try_acquire(&self) -> Option<Slot> {
        let pages = self.free_list.state.lock().free.pop_back()?;
        Some(self.slot(pages))
    }

    /// Acquires a slot, waiting until one is free. `None` if the pool is [closed](Self::close).
    pub fn acquire(&self) -> Option<Slot> {
        let mut state = self.free_list.state.lock();
        self.free_list.changed.wait_while(&mut state, |state| state.free.is_empty() && !state.is_closed);
        if state.is_closed { None } else { state.free.pop_back().map(|pages| self.slot(pages)) }
    }

    /// Acquires a slot, waiting at most `limit`. `None` after that, or if the pool is [closed](Self::close).
    pub fn acquire_within(&self, limit: Duration) -> Option<Slot> {
        let mut state = self.free_list.state.lock();
        let is_empty = |state: &mut State| state.free.is_empty() && !state.is_closed;
        self.free_list.changed.wait_while_for(&mut state, is_empty, limit);
        if state.is_closed { None } else { state.free.pop_back().map(|pages| self.slot(pages)) }
    }

    /// Closes the pool: all current and later waits for a slot return `None`.
    pub fn close(&self) {
        self.free_list.state.lock().is_closed = true;
        self.free_list.changed.notify_all();
    }

    fn slot(&self, pages: PageBuf) -> Slot {
        Slot { pages: Some(pages), free_list: Arc::downgrade(&self.free_list) }
    }

    /// Returns the length of each slot in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Returns the number of slots, free and acquired.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// Returns the number of slots that are prefaulted or need no prefaulting: fewer than all only while a
    /// [`prefaulting`](Self::prefaulting) pool is prefaulted. Never decreases.
    pub fn ready_slots(&self) -> usize {
        self.n_slots - self.free_list.state.lock().n_unfaulted
    }

    /// Returns the number of free slots.
    pub fn free_slots(&self) -> usize {
        self.free_list.state.lock().free.len()
    }
}

/// Memory that a bundle is read into; returned to its pool on drop, from any thread.
///
/// Dereferences to `[u8]`. Alignment and lead are those of [`PageBuf`].
pub struct Slot {
    /// `None` only while it is being dropped.
    pages: Option<PageBuf>,
    /// Empty for a slot without a pool.
    free_list: Weak<FreeList>,
}

impl Slot {
    /// Creates a slot without a pool, which frees its memory on drop: for pinned tensors.
    ///
    /// # Errors
    /// See [`PageBuf::new`].
    pub fn unpooled(budget: &Budget, len_bytes: usize) -> Result<Self, IoError> {
        Ok(Self { pages: Some(PageBuf::new(len_bytes, budget)?), free_list: Weak::new() })
    }

    /// Returns the address of the first byte; see [`PageBuf::as_ptr`].
    pub fn as_ptr(&self) -> *const u8 {
        self.pages().as_ptr()
    }

    /// Returns the mutable address of the first byte; see [`PageBuf::as_mut_ptr`].
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pages_mut().as_mut_ptr()
    }

    /// Returns the length with the rest of the last OS page; see [`PageBuf::mapped_bytes`].
    pub fn mapped_bytes(&self) -> usize {
        self.pages().mapped_bytes()
    }

    /// Returns the data.
    pub fn as_slice(&self) -> &[u8] {
        self.pages().as_slice()
    }

    /// Returns the data, mutably.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.pages_mut().as_mut_slice()
    }

    /// Returns the bytes immediately before the data.
    pub fn lead_mut(&mut self) -> &mut [u8; LEAD_BYTES] {
        self.pages_mut().lead_mut()
    }

    fn pages(&self) -> &PageBuf {
        self.pages.as_ref().expect("a slot keeps its memory until it is dropped")
    }

    fn pages_mut(&mut self) -> &mut PageBuf {
        self.pages.as_mut().expect("a slot keeps its memory until it is dropped")
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let (Some(pages), Some(free_list)) = (self.pages.take(), self.free_list.upgrade()) {
            free_list.release(pages);
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("pages", &self.pages).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_dropped_on_another_thread_becomes_free() {
        let budget = Budget::new(1 << 20);
        let pool = SlotPool::new(&budget, 5000, 2).unwrap();
        let (first, second) = (pool.try_acquire().unwrap(), pool.try_acquire().unwrap());
        assert_ne!(first.as_ptr(), second.as_ptr());
        assert!(pool.try_acquire().is_none());
        std::thread::spawn(move || drop(first)).join().unwrap();
        assert_eq!(pool.free_slots(), 1);
        assert!(pool.try_acquire().is_some());
        drop(second);
        assert_eq!(pool.free_slots(), 2);
    }

    #[test]
    fn waiter_gets_a_released_slot_or_none_when_the_pool_closes() {
        let pool = SlotPool::new(&Budget::new(1 << 20), 100, 1).unwrap();
        let slot = pool.acquire().unwrap();
        assert!(pool.acquire_within(Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.acquire().is_some());
            drop(slot);
            assert!(waiting.join().unwrap());
            let slot = pool.acquire_within(Duration::from_secs(60)).unwrap();
            let waiting =
                [scope.spawn(|| pool.acquire()), scope.spawn(|| pool.acquire_within(Duration::MAX))];
            pool.close();
            for waiting in waiting {
                assert!(waiting.join().unwrap().is_none());
            }
            drop(slot);
        });
        assert!(pool.acquire().is_none(), "closed for good");
    }

    #[test]
    fn pool_that_does_not_fit_reserves_nothing() {
        let budget = Budget::new(3 * PageBuf::cost_bytes(4096));
        assert!(matches!(SlotPool::new(&budget, 4096, 4), Err(IoError::OverBudget { .. })));
        assert_eq!(budget.used_bytes(), 0);
        assert!(SlotPool::new(&budget, 4096, 3).is_ok());
    }

    #[test]
    fn warming_pool_has_its_first_slots_at_once_and_all_eventually() {
        let (slot_bytes, n_slots) = (1 << 20, 260);
        let pool = SlotPool::prefaulting(&Budget::new(1 << 30), slot_bytes, n_slots, 3).unwrap();
        let first: Vec<_> = (0..3).map(|_| pool.try_acquire().unwrap()).collect();
        let rest: Vec<_> = (3..n_slots).map(|_| pool.acquire().unwrap()).collect();
        assert_eq!((pool.ready_slots(), pool.free_slots()), (n_slots, 0));
        let places: std::collections::HashSet<_> = first.iter().chain(&rest).map(Slot::as_ptr).collect();
        assert_eq!(places.len(), n_slots);
    }

    #[test]
    fn small_pool_is_ready_at_once() {
        let pool = SlotPool::prefaulting(&Budget::new(1 << 20), 1000, 10, 2).unwrap();
        assert_eq!((pool.ready_slots(), pool.free_slots()), (10, 10));
    }

    #[test]
    fn pool_dropped_while_it_warms_releases_all_of_its_budget() {
        let budget = Budget::new(4 << 30);
        let pool = SlotPool::prefaulting(&budget, 1 << 20, 2000, 1).unwrap();
        let slot = pool.try_acquire().unwrap();
        drop(pool);
        drop(slot);
        let begun = std::time::Instant::now();
        while budget.used_bytes() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes are left", budget.used_bytes());
            std::thread::yield_now();
        }
    }

    #[test]
    fn slot_that_outlives_its_pool_frees_its_memory_on_drop() {
        let budget = Budget::new(1 << 20);
        let pool = SlotPool::new(&budget, 100, 3).unwrap();
        let mut slot = pool.try_acquire().unwrap();
        drop(pool);
        assert_eq!(budget.used_bytes(), PageBuf::cost_bytes(100));
        slot.fill(7);
        drop(slot);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn slot_without_a_pool_frees_its_memory() {
        let budget = Budget::new(1 << 20);
        let slot = Slot::unpooled(&budget, 100).unwrap();
        assert_eq!(slot.len(), 100);
        drop(slot);
        assert_eq!(budget.used_bytes(), 0);
    }
}
