//! Hard cap on memory, shared by many owners.

use std::fmt;
use std::sync::Arc;

use crate::error::IoError;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Hard cap on the memory of all its users.
///
/// Clones share one count. A budget allocates nothing and only counts: callers reserve bytes before they allocate
/// memory, and keep the [`Reservation`] for as long as the memory.
#[derive(Clone)]
pub struct Budget {
    counts: Arc<Counts>,
}

struct Counts {
    total_bytes: u64,
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
}

impl Budget {
    /// Creates a budget with no bytes used.
    pub fn new(total_bytes: u64) -> Self {
        let counts = Counts { total_bytes, used_bytes: AtomicU64::new(0), peak_bytes: AtomicU64::new(0) };
        Self { counts: Arc::new(counts) }
    }

    /// Reserves `bytes` until the reservation is dropped.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if fewer are free; the budget is unchanged then.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, IoError> {
        let Counts { total_bytes, used_bytes, peak_bytes } = &*self.counts;
        // Relaxed: no other memory depends on the order of these counts.
        let taken = used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|used| used <= total_bytes)
        });
        match taken {
            Ok(before) => {
                peak_bytes.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(Reservation { budget: self.clone(), bytes })
            }
            Err(used) => Err(IoError::OverBudget {
                wanted_bytes: bytes,
                free_bytes: total_bytes - used,
                total_bytes: *total_bytes,
            }),
        }
    }

    /// Returns the size of the budget.
    pub fn total_bytes(&self) -> u64 {
        self.counts.total_bytes
    }

    /// Returns the reserved bytes.
    pub fn used_bytes(&self) -> u64 {
        self.counts.used_bytes.load(Ordering::Relaxed)
    }

    /// Returns the highest number of reserved bytes so far.
    pub fn peak_bytes(&self) -> u64 {
        self.counts.peak_bytes.load(Ordering::Relaxed)
    }

    /// Returns the unreserved bytes.
    pub fn free_bytes(&self) -> u64 {
        self.total_bytes() - self.used_bytes()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("total_bytes", &self.total_bytes())
            .field("used_bytes", &self.used_bytes())
            .field("peak_bytes", &self.peak_bytes())
            .finish()
    }
}

/// Bytes reserved from a [`Budget`], released on drop.
#[derive(Debug)]
#[must_use = "dropping a reservation releases its bytes"]
pub struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Reservation {
    /// Returns the reserved bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.counts.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn over_budget_states_wanted_free_and_total() {
        let budget = Budget::new(100);
        let _held = budget.reserve(60).unwrap();
        let refusal = budget.reserve(41).unwrap_err();
        assert!(matches!(
            refusal,
            IoError::OverBudget { wanted_bytes: 41, free_bytes: 40, total_bytes: 100 }
        ));
        assert_eq!(budget.used_bytes(), 60);
    }

    #[test]
    fn reservation_that_would_overflow_is_refused() {
        let budget = Budget::new(u64::MAX);
        let _held = budget.reserve(u64::MAX).unwrap();
        assert!(budget.reserve(u64::MAX).is_err());
        assert!(budget.reserve(0).is_ok());
    }

    #[test]
    fn threads_never_exceed_the_total() {
        const TOTAL: u64 = 1000;
        let budget = Budget::new(TOTAL);
        // The threads' own sum of held bytes; it lags the budget's count, so it can only be lower.
        let held = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for seed in 1..5u64 {
                let (budget, held) = (budget.clone(), &held);
                scope.spawn(move || {
                    let mut random = seed;
                    for _ in 0..20_000 {
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let bytes = (random >> 33) % 600;
                        if let Ok(reservation) = budget.reserve(bytes) {
                            let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                            assert!(now <= TOTAL);
                            held.fetch_sub(bytes, Ordering::SeqCst);
                            drop(reservation);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.peak_bytes() <= TOTAL);
    }

    proptest! {
        #[test]
        fn used_is_the_sum_of_reservations(total in 0u64..10_000, steps in prop::collection::vec((any::<bool>(), 0u64..4_000), 0..60)) {
            let budget = Budget::new(total);
            let mut held: Vec<Reservation> = Vec::new();
            let mut peak = 0;
            for (take, bytes) in steps {
                if take {
                    let free = budget.free_bytes();
                    match budget.reserve(bytes) {
                        Ok(reservation) => { prop_assert!(bytes <= free); held.push(reservation); }
                        Err(_) => prop_assert!(bytes > free),
                    }
                } else if !held.is_empty() {
                    drop(held.swap_remove(bytes as usize % held.len()));
                }
                let sum: u64 = held.iter().map(Reservation::bytes).sum();
                peak = peak.max(sum);
                prop_assert_eq!(budget.used_bytes(), sum);
                prop_assert_eq!(budget.peak_bytes(), peak);
                prop_assert!(sum <= total);
            }
        }
    }
}
