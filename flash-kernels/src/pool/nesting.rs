//! Which pools' jobs a thread takes part in, so that a job that uses the pool that runs it is found before it waits for itself.

use std::cell::RefCell;

use smallvec::SmallVec;

/// Pools whose jobs run one inside the other, the outermost first. A pool is known by the address of what its threads share.
pub(super) type Pools = SmallVec<[usize; 4]>;

thread_local! {
    static INSIDE: RefCell<Pools> = RefCell::default();
}

/// For as long as it lives, the thread takes part in the jobs of some pools.
pub(super) struct Inside {
    before: Pools,
}

impl Inside {
    /// Adds a job of `pool`, which the calling thread begins.
    ///
    /// # Panics
    /// If it takes part in one of that pool already.
    pub(super) fn caller(pool: usize) -> Self {
        let mut pools = Self::pools();
        assert!(!pools.contains(&pool), "a job must not use the pool that runs it: it would wait for itself");
        pools.push(pool);
        Self::member(pools)
    }

    /// Of the jobs of `pools`.
    pub(super) fn member(pools: Pools) -> Self {
        Self { before: INSIDE.replace(pools) }
    }

    /// The pools whose jobs the calling thread takes part in.
    pub(super) fn pools() -> Pools {
        INSIDE.with_borrow(Clone::clone)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(std::mem::take(&mut self.before));
    }
}
