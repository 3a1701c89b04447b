//! Slots: memory for bundles, used over and over.

mod warm;

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::budget::Budget;
use crate::error::IoError;
use crate::pages::{LEAD_BYTES, PageBuf};
use crate::sync::{Condvar, Mutex};

/// A fixed number of equal slots, all taken from the budget at once.
///
/// Dropping the pool frees what lies in it at once and each slot that is out when it comes back.
#[derive(Debug)]
pub struct SlotPool {
    shelf: Arc<Shelf>,
    slot_bytes: usize,
    n_slots: usize,
}

#[derive(Debug)]
struct Shelf {
    stock: Mutex<Stock>,
    /// A slot came back, or the pool was closed.
    changed: Condvar,
}

#[derive(Debug)]
struct Stock {
    /// The one that came back last is the next to go out: caches know it best.
    free: VecDeque<PageBuf>,
    /// Slots that are being made ready.
    n_cold: usize,
    is_closed: bool,
}

impl SlotPool {
    /// Makes `n_slots` slots of `slot_bytes` each.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if they do not all fit, [`IoError::Map`] if the system has no memory.
    pub fn new(budget: &Budget, slot_bytes: usize, n_slots: usize) -> Result<Self, IoError> {
        let free = (0..n_slots).map(|_| PageBuf::new(slot_bytes, budget)).collect::<Result<_, _>>()?;
        let stock = Mutex::new(Stock { free, n_cold: 0, is_closed: false });
        Ok(Self { shelf: Arc::new(Shelf { stock, changed: Condvar::new() }), slot_bytes, n_slots })
    }

    /// The same, for memory that will be needed bit by bit: `n_first` slots are there at once, and the others become
    /// [ready](Self::ready_slots) as a thread in the background has touched them, so that no read waits for the system to find
    /// memory. A virtual machine may have to ask its host for each page, at less than the speed of a disk
    /// (docs/performance.md).
    ///
    /// Few bytes are all there at once.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn warming(
        budget: &Budget,
        slot_bytes: usize,
        n_slots: usize,
        n_first: usize,
    ) -> Result<Self, IoError> {
        let pool = Self::new(budget, slot_bytes, n_slots)?;
        if (n_slots * slot_bytes) as u64 >= warm::BYTES_MIN {
            let cold = {
                let mut stock = pool.shelf.stock.lock();
                let cold = stock.free.split_off(n_first.min(n_slots));
                stock.n_cold = cold.len();
                cold
            };
            warm::begin(&pool.shelf, cold);
        }
        Ok(pool)
    }

    /// Takes a free slot, `None` if all are out. Its bytes are what its last user left.
    pub fn try_acquire(&self) -> Option<Slot> {
        let pages = self.shelf.stock.lock().free.pop_back()?;
        Some(self.slot(pages))
    }

    /// Takes a slot, and waits for one if all are out. `None` when the pool is [closed](Self::close).
    pub fn acquire(&self) -> Option<Slot> {
        let mut stock = self.shelf.stock.lock();
        self.shelf.changed.wait_while(&mut stock, |stock| stock.free.is_empty() && !stock.is_closed);
        if stock.is_closed { None } else { stock.free.pop_back().map(|pages| self.slot(pages)) }
    }

    /// The same, but waits no longer than `limit`; then `None`.
    pub fn acquire_within(&self, limit: Duration) -> Option<Slot> {
        let mut stock = self.shelf.stock.lock();
        let is_empty = |stock: &mut Stock| stock.free.is_empty() && !stock.is_closed;
        self.shelf.changed.wait_while_for(&mut stock, is_empty, limit);
        if stock.is_closed { None } else { stock.free.pop_back().map(|pages| self.slot(pages)) }
    }

    /// Ends all waits for a slot, now and later.
    pub fn close(&self) {
        self.shelf.stock.lock().is_closed = true;
        self.shelf.changed.notify_all();
    }

    fn slot(&self, pages: PageBuf) -> Slot {
        Slot { pages: Some(pages), home: Arc::downgrade(&self.shelf) }
    }

    /// Length of each slot in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// How many slots there are, in the pool and out.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// How many of them are ready to be used: all, but for those of a pool that is [warming](Self::warming). They become more,
    /// never fewer.
    pub fn ready_slots(&self) -> usize {
        self.n_slots - self.shelf.stock.lock().n_cold
    }

    /// How many slots are in the pool now.
    pub fn free_slots(&self) -> usize {
        self.shelf.stock.lock().free.len()
    }
}

/// A place in memory for a bundle; it goes back to its pool when it is dropped, on whichever thread.
///
/// Reads as `[u8]`. What [`PageBuf`] says of alignment and of the lead holds here.
pub struct Slot {
    /// `None` only while it is being dropped.
    pages: Option<PageBuf>,
    home: Weak<Shelf>,
}

impl Slot {
    /// A slot of no pool, which frees its memory when it is dropped: for what stays resident.
    ///
    /// # Errors
    /// As [`PageBuf::new`].
    pub fn alone(budget: &Budget, len_bytes: usize) -> Result<Self, IoError> {
        Ok(Self { pages: Some(PageBuf::new(len_bytes, budget)?), home: Weak::new() })
    }

    /// Address of the first byte, as [`PageBuf::as_ptr`].
    pub fn as_ptr(&self) -> *const u8 {
        self.pages().as_ptr()
    }

    /// Address of the first byte for writing, as [`PageBuf::as_mut_ptr`].
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pages_mut().as_mut_ptr()
    }

    /// The data.
    pub fn as_slice(&self) -> &[u8] {
        self.pages().as_slice()
    }

    /// The data, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.pages_mut().as_mut_slice()
    }

    /// The bytes right before the data.
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
        if let (Some(pages), Some(shelf)) = (self.pages.take(), self.home.upgrade()) {
            shelf.stock.lock().free.push_back(pages);
            shelf.changed.notify_one();
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
    fn slot_dropped_on_another_thread_comes_back() {
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
    fn who_waits_gets_the_slot_that_comes_back_or_none_when_the_pool_is_closed() {
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
    fn pool_that_does_not_fit_takes_nothing() {
        let budget = Budget::new(3 * PageBuf::cost_bytes(4096));
        assert!(matches!(SlotPool::new(&budget, 4096, 4), Err(IoError::OverBudget { .. })));
        assert_eq!(budget.used_bytes(), 0);
        assert!(SlotPool::new(&budget, 4096, 3).is_ok());
    }

    #[test]
    fn warming_pool_has_its_first_slots_at_once_and_all_in_the_end() {
        let (slot_bytes, n_slots) = (1 << 20, 260);
        let pool = SlotPool::warming(&Budget::new(1 << 30), slot_bytes, n_slots, 3).unwrap();
        let first: Vec<_> = (0..3).map(|_| pool.try_acquire().unwrap()).collect();
        let rest: Vec<_> = (3..n_slots).map(|_| pool.acquire().unwrap()).collect();
        assert_eq!((pool.ready_slots(), pool.free_slots()), (n_slots, 0));
        let places: std::collections::HashSet<_> = first.iter().chain(&rest).map(Slot::as_ptr).collect();
        assert_eq!(places.len(), n_slots);
    }

    #[test]
    fn small_pool_is_ready_at_once() {
        let pool = SlotPool::warming(&Budget::new(1 << 20), 1000, 10, 2).unwrap();
        assert_eq!((pool.ready_slots(), pool.free_slots()), (10, 10));
    }

    #[test]
    fn pool_that_goes_while_it_warms_gives_back_all_of_its_budget() {
        let budget = Budget::new(4 << 30);
        let pool = SlotPool::warming(&budget, 1 << 20, 2000, 1).unwrap();
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
    fn slot_outlives_its_pool_and_frees_its_memory_then() {
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
    fn lone_slot_frees_its_memory() {
        let budget = Budget::new(1 << 20);
        let slot = Slot::alone(&budget, 100).unwrap();
        assert_eq!(slot.len(), 100);
        drop(slot);
        assert_eq!(budget.used_bytes(), 0);
    }
}
