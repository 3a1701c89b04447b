//! How much memory to have while other programs come and go.
//!
//! Memory that gets short is given back at once; what is free again is taken only when it has been free for a while, so that
//! two programs that both do this do not chase each other.

use std::time::Duration;

/// Memory must have been free for so long before more of it is taken.
const CALM: Duration = Duration::from_secs(5);
/// Programs that wait for memory need at least this part of what is held, whatever else is said to be free.
const STALLED_PART: u64 = 16;

/// No one takes memory faster than this, in bytes a second: some processors clear as much.
const TAKEN_BYTES_PER_S: f64 = 16e9;
/// From one look to the next, at least and at most: memory that gets short is given back within a quarter of a second, and a
/// token of pinned layers, or a layer that streams, may take most of that. A look costs a fifth of a millisecond.
const LOOKS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// What is seen of the machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What could be taken without taking it from anyone.
    pub free_bytes: u64,
    /// What is held now: it may be more than is allowed, for giving back takes a moment.
    pub held_bytes: u64,
    /// Whether programs wait for memory.
    pub is_stalled: bool,
}

/// Decides how much memory to have.
#[derive(Debug, Clone)]
pub struct Elastic {
    /// Never more than this.
    cap_bytes: u64,
    /// What is to be left for others.
    headroom_bytes: u64,
    allowance_bytes: u64,
    free_since: Option<Duration>,
}

impl Elastic {
    /// Begins with all of the cap; tries to leave `headroom_bytes` free.
    pub fn new(cap_bytes: u64, headroom_bytes: u64) -> Self {
        Self { cap_bytes, headroom_bytes, allowance_bytes: cap_bytes, free_since: None }
    }

    /// What may be had from `now` on, the time since any fixed start, given what `memory` looks like at this moment.
    ///
    /// Less than three quarters of the headroom free is short, more than twice as much is plenty; nothing happens between.
    /// What is missing is counted from what is held, so that looking twice before it is given back takes it once.
    pub fn step(&mut self, now: Duration, memory: Memory) -> u64 {
        let Memory { free_bytes, held_bytes, is_stalled } = memory;
        if is_stalled || free_bytes < self.headroom_bytes / 4 * 3 {
            let missing_bytes = self.headroom_bytes.saturating_sub(free_bytes);
            let least_bytes = if is_stalled { held_bytes / STALLED_PART } else { 0 };
            let left_bytes = held_bytes.saturating_sub(missing_bytes.max(least_bytes));
            self.allowance_bytes = self.allowance_bytes.min(left_bytes);
            self.free_since = None;
        } else if free_bytes > 2 * self.headroom_bytes && self.allowance_bytes < self.cap_bytes {
            let since = *self.free_since.get_or_insert(now);
            if now.saturating_sub(since) >= CALM {
                let spare_bytes = free_bytes - self.headroom_bytes;
                self.allowance_bytes = self.allowance_bytes.saturating_add(spare_bytes).min(self.cap_bytes);
                self.free_since = None;
            }
        } else {
            self.free_since = None;
        }
        self.allowance_bytes
    }

    /// How long nobody has to look again after `memory` was seen: the more is free, the longer it takes to get short.
    pub fn until_next_look(&self, memory: Memory) -> Duration {
        let spare_bytes = memory.free_bytes.saturating_sub(self.headroom_bytes);
        let [least, most] = LOOKS;
        Duration::from_secs_f64(spare_bytes as f64 / TAKEN_BYTES_PER_S).clamp(least, most)
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
    fn looks_are_rare_where_much_is_free_and_frequent_where_little_is() {
        let elastic = Elastic::new(8 * GIB, GIB);
        let after = |free_bytes| elastic.until_next_look(free(free_bytes, 4 * GIB));
        assert_eq!([0, GIB, GIB + (200 << 20)].map(after), [LOOKS[0]; 3]);
        assert!(after(2 * GIB) > LOOKS[0] && after(2 * GIB) < LOOKS[1]);
        assert_eq!([16 * GIB, u64::MAX].map(after), [LOOKS[1]; 2]);
    }

    #[test]
    fn shortage_is_answered_at_once_with_what_is_missing_and_once() {
        let mut elastic = Elastic::new(1000, 100);
        assert_eq!(elastic.step(SECOND, free(100, 1000)), 1000);
        assert_eq!(elastic.step(SECOND, free(75, 1000)), 1000);
        assert_eq!(elastic.step(SECOND, free(40, 1000)), 940);
        assert_eq!(elastic.step(SECOND, free(40, 1000)), 940, "it was not given back yet");
        assert_eq!(elastic.step(SECOND, free(0, 940)), 840);
    }

    #[test]
    fn programs_that_wait_get_memory_whatever_is_free() {
        let mut elastic = Elastic::new(1600, 100);
        assert_eq!(
            elastic.step(SECOND, Memory { free_bytes: 5000, held_bytes: 1600, is_stalled: true }),
            1500
        );
    }

    #[test]
    fn memory_is_taken_back_after_a_while_and_up_to_the_cap() {
        let mut elastic = Elastic::new(1000, 100);
        elastic.step(SECOND, free(0, 1000));
        assert_eq!(elastic.step(2 * SECOND, free(250, 900)), 900);
        assert_eq!(elastic.step(6 * SECOND, free(250, 900)), 900);
        // Not free enough for a moment: it begins anew.
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
            let mut elastic = Elastic::new(cap, headroom);
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
