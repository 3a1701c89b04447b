//! Elastic memory budget that yields to other programs.
//!
//! The budget has a cap, and at any time an *allowance*, the part of it that may be used. Memory is released
//! immediately under pressure and reclaimed only after it has been free for a while, so that two programs with this
//! policy do not oscillate.

use std::time::Duration;

/// Time that memory must stay free before more of it is taken.
const REGROW_DELAY: Duration = Duration::from_secs(5);
/// While programs stall on memory, at least one part in this many of the held memory is released, no matter how much is
/// reported free.
const STALL_RELEASE_DIVISOR: u64 = 16;

/// Assumed fastest rate at which other programs take memory, in bytes per second: some processors clear pages at this
/// rate.
const PRESSURE_BYTES_PER_S: f64 = 16e9;
/// Minimum and maximum interval between checks. Memory under pressure is released within a quarter of a second, and a
/// token of pinned layers, or a streamed layer, may take most of that. A check costs 0.2 ms.
const CHECK_INTERVALS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// Memory state of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Memory available without taking it from another program.
    pub free_bytes: u64,
    /// Memory currently held. It may exceed the allowance, because releasing takes a moment.
    pub held_bytes: u64,
    /// Whether programs stall on memory.
    pub is_stalled: bool,
}

/// A policy for an elastic memory budget.
#[derive(Debug, Clone)]
pub struct ElasticBudget {
    /// Hard cap on the allowance.
    cap_bytes: u64,
    /// Memory to leave free for other programs.
    headroom_bytes: u64,
    allowance_bytes: u64,
    free_since: Option<Duration>,
}

impl ElasticBudget {
    /// Creates a policy that starts at the cap and tries to leave `headroom_bytes` free.
    pub fn new(cap_bytes: u64, headroom_bytes: u64) -> Self {
        Self { cap_bytes, headroom_bytes, allowance_bytes: cap_bytes, free_since: None }
    }

    /// Returns the allowance in bytes from `now` on, the time since any fixed start, given the current memory state.
    ///
    /// Free memory below three quarters of the headroom counts as short, above twice the headroom as plenty; in between
    /// nothing changes. A shortage is subtracted from the held memory, not from the allowance, so that checking again
    /// before the release takes effect does not subtract it twice.
    pub fn step(&mut self, now: Duration, memory: Memory) -> u64 {
        let Memory { free_bytes, held_bytes, is_stalled } = memory;
        if is_stalled || free_bytes < self.headroom_bytes / 4 * 3 {
            let missing_bytes = self.headroom_bytes.saturating_sub(free_bytes);
            let least_bytes = if is_stalled { held_bytes / STALL_RELEASE_DIVISOR } else { 0 };
            let left_bytes = held_bytes.saturating_sub(missing_bytes.max(least_bytes));
            self.allowance_bytes = self.allowance_bytes.min(left_bytes);
            self.free_since = None;
        } else if free_bytes > 2 * self.headroom_bytes && self.allowance_bytes < self.cap_bytes {
            let since = *self.free_since.get_or_insert(now);
            if now.saturating_sub(since) >= REGROW_DELAY {
                let spare_bytes = free_bytes - self.headroom_bytes;
                self.allowance_bytes = self.allowance_bytes.saturating_add(spare_bytes).min(self.cap_bytes);
                self.free_since = None;
            }
        } else {
            self.free_since = None;
        }
        self.allowance_bytes
    }

    /// Returns the interval until the next check after `memory` was seen: the more memory is free, the longer a
    /// shortage takes to develop.
    pub fn next_check_in(&self, memory: Memory) -> Duration {
        let spare_bytes = memory.free_bytes.saturating_sub(self.headroom_bytes);
        let [least, most] = CHECK_INTERVALS;
        Duration::from_secs_f64(spare_bytes as f64 / PRESSURE_BYTES_PER_S).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GIB: u64 = 1 << 30;

    fn free(free_bytes: u64, held_bytes: u64) -> Memory {
        Memory { free_bytes, held_bytes, is_stalled: false }
    }

    #[test]
    fn checks_are_rare_when_much_is_free_and_frequent_when_little_is() {
        let elastic = ElasticBudget::new(8 * GIB, GIB);
        let after = |free_bytes| elastic.next_check_in(free(free_bytes, 4 * GIB));
        assert_eq!([0, GIB, GIB + (200 << 20)].map(after), [CHECK_INTERVALS[0]; 3]);
        assert!(after(2 * GIB) > CHECK_INTERVALS[0] && after(2 * GIB) < CHECK_INTERVALS[1]);
        assert_eq!([16 * GIB, u64::MAX].map(after), [CHECK_INTERVALS[1]; 2]);
    }

    #[test]
    fn a_shortage_is_released_at_once_and_only_once() {
        let mut elastic = ElasticBudget::new(1000, 100);
        assert_eq!(elastic.step(SECOND, free(100, 1000)), 1000);
        assert_eq!(elastic.step(SECOND, free(75, 1000)), 1000);
        assert_eq!(elastic.step(SECOND, free(40, 1000)), 940);
        assert_eq!(elastic.step(SECOND, free(40, 1000)), 940, "not released yet");
        assert_eq!(elastic.step(SECOND, free(0, 940)), 840);
    }

    #[test]
    fn stalled_programs_get_memory_no_matter_how_much_is_free() {
        let mut elastic = ElasticBudget::new(1600, 100);
        assert_eq!(
            elastic.step(SECOND, Memory { free_bytes: 5000, held_bytes: 1600, is_stalled: true }),
            1500
        );
    }

    #[test]
    fn memory_is_reclaimed_after_a_delay_and_up_to_the_cap() {
        let mut elastic = ElasticBudget::new(1000, 100);
        elastic.step(SECOND, free(0, 1000));
        assert_eq!(elastic.step(2 * SECOND, free(250, 900)), 900);
        assert_eq!(elastic.step(6 * SECOND, free(250, 900)), 900);
        // A short dip in free memory restarts the delay.
        assert_eq!(elastic.step(6 * SECOND, free(150, 900)), 900);
        assert_eq!(elastic.step(7 * SECOND, free(250, 900)), 900);
        assert_eq!(elastic.step(12 * SECOND, free(250, 900)), 1000);
    }

    proptest! {
        #[test]
        fn allowance_is_never_above_the_cap_and_short_memory_never_raises_it(
            cap in 0..u64::MAX / 2,
            headroom in 0..u64::MAX / 4,
            seen in prop::collection::vec((0..10_000u64, any::<u64>(), any::<u64>(), any::<bool>()), 1..50),
        ) {
            let mut elastic = ElasticBudget::new(cap, headroom);
            let (mut now, mut before) = (Duration::ZERO, cap);
            for (ms, free_bytes, held_bytes, is_stalled) in seen {
                now += Duration::from_millis(ms);
                let allowance = elastic.step(now, Memory { free_bytes, held_bytes, is_stalled });
                prop_assert!(allowance <= cap);
                prop_assert!(allowance <= before || (!is_stalled && free_bytes > headroom));
                before = allowance;
            }
        }
    }
}
