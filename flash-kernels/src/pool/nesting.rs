//! Detects jobs that use the pool that runs them, which would deadlock.

use std::cell::RefCell;

use smallvec::SmallVec;

/// Pools whose jobs are nested, outermost first. A pool is identified by the address of its shared state.
pub(super) type Pools = SmallVec<[usize; 4]>;

thread_local! {
    static INSIDE: RefCell<Pools> = RefCell::default();
}

/// A guard that records, while it lives, that the thread takes part in jobs of some pools.
pub(super) struct Inside {
    before: Pools,
}

impl Inside {
    /// Enters a job of `pool`, started by the calling thread.
    ///
    /// # Panics
    /// If the thread already takes part in a job of that pool.
    pub(super) fn caller(pool: usize) -> Self {
        let mut pools = Self::pools();
        assert!(!pools.contains(&pool), "a job must not use the pool that runs it: it would wait for itself");
        pools.push(pool);
        Self::member(pools)
    }

    /// Enters the nested jobs of `pools`, as a worker.
    pub(super) fn member(pools: Pools) -> Self {
        Self { before: INSIDE.replace(pools) }
    }

    /// Returns the pools whose jobs the calling thread takes part in.
    pub(super) fn pools() -> Pools {
        INSIDE.with_borrow(Clone::clone)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(std::mem::take(&mut self.before));
    }
}
