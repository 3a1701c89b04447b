//! Detects jobs that use the pool that runs them, which would deadlock.

use std::cell::RefCell;

use smallvec::SmallVec;

/// Pools whose jobs are nested, outermost first. A pool is identified by the address of its shared state.
pub(super) type Pools = SmallVec<[usize; 4]>;

thread_local! {
    static NESTED_POOLS: RefCell<Pools> = RefCell::default();
}

/// A guard that records, while it lives, that the thread takes part in jobs of some pools.
pub(super) struct NestingGuard {
    before: Pools,
}

impl NestingGuard {
    /// Enters a job of `pool`, started by the calling thread.
    ///
    /// # Panics
    /// If the thread already takes part in a job of that pool.
    pub(super) fn enter(pool: usize) -> Self {
        let mut pools = Self::current();
        assert!(!pools.contains(&pool), "a job must not use the pool that runs it: it would wait for itself");
        pools.push(pool);
        Self::join(pools)
    }

    /// Enters the nested jobs of `pools`, as a worker.
    pub(super) fn join(pools: Pools) -> Self {
        Self { before: NESTED_POOLS.replace(pools) }
    }

    /// Returns the pools whose jobs the calling thread takes part in.
    pub(super) fn current() -> Pools {
        NESTED_POOLS.with_borrow(Clone::clone)
    }
}

impl Drop for NestingGuard {
    fn drop(&mut self) {
        NESTED_POOLS.set(std::mem::take(&mut self.before));
    }
}
