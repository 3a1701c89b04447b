//! Work distribution with stealing: each thread owns a contiguous range of parts and processes it in order.
//!
//! A thread thus reads memory in order, and what it prefetches beyond one part is the beginning of its next. A thread
//! whose range is empty steals half of another's rest. Parts may be small, no thread waits longer than one part takes,
//! and no thread waits for another that wakes late or never.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The unclaimed parts of a job, by thread.
#[derive(Debug)]
pub(super) struct Shares {
    /// One range per thread.
    shares: Vec<Share>,
    /// Set when no more parts may be claimed.
    is_over: AtomicBool,
}

/// A range of parts, with the first part in the upper half and the end in the lower. Aligned to two cache lines (the
/// second is prefetched with the first), because mostly the owner accesses it.
///
/// Only the owner stores to its range, when it is empty; other threads only take from nonempty ranges. The first part
/// of a range leaves it only to be run and is in no range of the same job again, so a range never returns to an earlier
/// value, which a compare-exchange could not tell apart (ABA).
#[derive(Debug)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Shares {
    pub(super) fn new(n_threads: usize) -> Self {
        let shares = (0..n_threads).map(|_| Share(AtomicU64::new(0))).collect();
        Self { shares, is_over: AtomicBool::new(false) }
    }

    /// Distributes `n_parts`, fewer than 2³², evenly. No thread may claim parts meanwhile.
    pub(super) fn distribute(&self, n_parts: usize) {
        let n_parts = u64::from(u32::try_from(n_parts).expect("fewer than 2^32 parts"));
        let n_threads = self.shares.len() as u64;
        let border = |thread_idx: u64| (n_parts * thread_idx / n_threads) as u32;
        for (share, thread_idx) in self.shares.iter().zip(0..) {
            share.set(border(thread_idx), border(thread_idx + 1));
        }
        self.is_over.store(false, Ordering::Relaxed);
    }

    /// Claims the next part for a thread, or returns `None` if no part is left.
    pub(super) fn claim(&self, thread_idx: usize) -> Option<usize> {
        if self.is_over.load(Ordering::Relaxed) {
            return None;
        }
        let own = &self.shares[thread_idx];
        let part = own.take(|first, end| (first..first + 1, first + 1..end)).or_else(|| {
            let (before, after) = self.shares.split_at(thread_idx);
            let half = |first, end| {
                let middle = first + (end - first) / 2;
                (middle..end, first..middle)
            };
            let taken = after.iter().skip(1).chain(before).find_map(|other| other.take(half))?;
            own.set(taken.start + 1, taken.end);
            Some(taken)
        })?;
        Some(part.start as usize)
    }

    /// Makes further claims fail.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

type Range = std::ops::Range<u32>;

impl Share {
    fn set(&self, first: u32, end: u32) {
        self.0.store(u64::from(first) << 32 | u64::from(end), Ordering::Relaxed);
    }

    /// Takes the first range that `cut` returns from a nonempty range, and leaves the second.
    fn take(&self, cut: impl Fn(u32, u32) -> (Range, Range)) -> Option<Range> {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = ((now >> 32) as u32, now as u32);
            if first >= end {
                return None;
            }
            let (taken, rest) = cut(first, end);
            let left = u64::from(rest.start) << 32 | u64::from(rest.end);
            match self.0.compare_exchange_weak(now, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(other) => now = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_from_the_first_to_the_last() {
        let shares = Shares::new(2);
        shares.distribute(7);
        let first: Vec<_> = (0..3).map(|_| shares.claim(0)).collect();
        let second: Vec<_> = (0..4).map(|_| shares.claim(1)).collect();
        assert_eq!(first, [Some(0), Some(1), Some(2)]);
        assert_eq!(second, [Some(3), Some(4), Some(5), Some(6)]);
        assert_eq!([shares.claim(0), shares.claim(1)], [None, None]);
    }

    #[test]
    fn a_thread_without_parts_steals_the_upper_half_of_anothers() {
        let shares = Shares::new(3);
        shares.distribute(12);
        // Only thread 1 is awake.
        let order: Vec<_> = std::iter::from_fn(|| shares.claim(1)).collect();
        assert_eq!(order, [4, 5, 6, 7, 10, 11, 9, 8, 2, 3, 1, 0]);
    }

    #[test]
    fn no_part_is_claimed_after_the_end_until_parts_are_distributed_again() {
        let shares = Shares::new(1);
        shares.distribute(3);
        shares.end();
        assert_eq!(shares.claim(0), None);
        shares.distribute(1);
        assert_eq!([shares.claim(0), shares.claim(0)], [Some(0), None]);
    }
}
