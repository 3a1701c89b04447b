//! A token bucket that returns waits instead of sleeping.

use std::time::Duration;

use crate::ByteRate;

/// The shortest wait: what a [`Duration`] can tell.
const TICK: Duration = Duration::from_nanos(1);

/// Paces reads to a rate, allowing a burst.
///
/// Up to any instant the bucket admits at most `rate × time + burst` bytes; when the rate changes, the integral of the
/// rate takes the place of `rate × time`. A request larger than the burst is admitted too, once the time for the whole
/// of it has passed: it goes into debt, which the following requests wait for. Time slept is credited once, because
/// credit is always computed from the clock and never from the wait.
///
/// Whoever waits while the rate may change holds a [`Claim`] and asks again, with [`wait`](Self::wait), before it goes
/// on: a lower rate makes it wait longer, a higher one shorter.
///
/// A `now` before that of an earlier call counts as that earlier one: clocks of several threads may cross.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// None while it is unlimited.
    rate: Option<ByteRate>,
    burst_bytes: f64,
    /// What may be taken at `updated` without a wait; negative while a debt is paid.
    level_bytes: f64,
    /// All credit so far. An `f64` counts bytes exactly up to 9 PB.
    credit_bytes: f64,
    updated: Duration,
}

/// A request that a [`TokenBucket`] has counted: its bytes are taken, and may be used when they are paid.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "the bytes may be used only when the bucket says that nothing is left to wait for"]
pub struct Claim {
    /// The credit at which it is paid.
    due_bytes: f64,
}

impl TokenBucket {
    /// A full bucket at time `now`.
    pub fn new(rate: ByteRate, burst_bytes: u64, now: Duration) -> Self {
        let burst_bytes = burst_bytes as f64;
        let level_bytes = burst_bytes;
        Self { rate: Some(rate), burst_bytes, level_bytes, credit_bytes: 0.0, updated: now }
    }

    /// A bucket that admits everything at once, until it is given a [rate](Self::set_rate).
    pub fn unlimited(burst_bytes: u64, now: Duration) -> Self {
        let burst_bytes = burst_bytes as f64;
        Self { rate: None, burst_bytes, level_bytes: burst_bytes, credit_bytes: 0.0, updated: now }
    }

    /// The rate that it keeps to; none while it is unlimited.
    pub fn rate(&self) -> Option<ByteRate> {
        self.rate
    }

    /// Admits at `rate` from `now` on. What was credited before stays, and so does a debt: it is paid at the new rate.
    pub fn set_rate(&mut self, now: Duration, rate: ByteRate) {
        self.credit(now);
        self.rate = Some(rate);
    }

    /// Admits everything from `now` on, claims that wait included. Afterwards the bucket is full.
    pub fn set_unlimited(&mut self, now: Duration) {
        self.credit(now);
        self.rate = None;
        self.fill();
    }

    /// Takes `bytes` at time `now` and returns how long to wait before using them, if the rate stays what it is.
    ///
    /// The promise is kept whatever happens to the rate: with one that changes, use [`claim`](Self::claim).
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let claim = self.claim(now, bytes);
        self.wait(now, &claim)
    }

    /// Takes `bytes` at time `now`. They may be used as soon as [`wait`](Self::wait) returns zero.
    pub fn claim(&mut self, now: Duration, bytes: u64) -> Claim {
        self.credit(now);
        if self.rate.is_some() {
            self.level_bytes -= bytes as f64;
        }
        Claim { due_bytes: self.credit_bytes + (-self.level_bytes).max(0.0) }
    }

    /// How long a claim has to wait from `now` on, at the rate of this moment; zero when its bytes may be used.
    pub fn wait(&mut self, now: Duration, claim: &Claim) -> Duration {
        self.credit(now);
        let owed_bytes = claim.due_bytes - self.credit_bytes;
        let Some(rate) = self.rate.filter(|_| owed_bytes > 0.0) else { return Duration::ZERO };
        let owed = Duration::try_from_secs_f64(owed_bytes / rate.bytes_per_s()).unwrap_or(Duration::MAX);
        let behind = self.updated - now.min(self.updated);
        // An instant is reached, or it is not: what is less than the clock can tell is one tick.
        owed.max(TICK).saturating_add(behind)
    }

    /// Credits the time up to `now`.
    fn credit(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated);
        self.updated = self.updated.max(now);
        match self.rate {
            Some(rate) => {
                let credit_bytes = elapsed.as_secs_f64() * rate.bytes_per_s();
                self.credit_bytes += credit_bytes;
                self.level_bytes = (self.level_bytes + credit_bytes).min(self.burst_bytes);
            }
            None => self.fill(),
        }
    }

    /// Pays all debts and fills the bucket to its burst.
    fn fill(&mut self) {
        self.credit_bytes += (-self.level_bytes).max(0.0);
        self.level_bytes = self.burst_bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(rate: f64, burst_bytes: u64) -> TokenBucket {
        TokenBucket::new(ByteRate::new(rate).unwrap(), burst_bytes, Duration::ZERO)
    }

    #[test]
    fn full_bucket_admits_its_burst_at_once_and_no_more() {
        let mut bucket = bucket(100.0, 50);
        assert_eq!(bucket.take(Duration::ZERO, 50), Duration::ZERO);
        assert_eq!(bucket.take(Duration::ZERO, 10), Duration::from_millis(100));
    }

    #[test]
    fn request_larger_than_the_burst_is_paid_over_time() {
        let mut bucket = bucket(100.0, 50);
        assert_eq!(bucket.take(Duration::ZERO, 250), Duration::from_secs(2));
        // The debt is still there for whoever comes next.
        assert_eq!(bucket.take(Duration::from_secs(2), 100), Duration::from_secs(1));
    }

    #[test]
    fn slept_time_is_not_credited_twice() {
        let mut bucket = bucket(100.0, 1);
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            now += bucket.take(now, 100);
        }
        assert!((now.as_secs_f64() - 99.99).abs() < 1e-6, "{now:?}");
    }

    #[test]
    fn idle_time_fills_the_bucket_to_its_burst_only() {
        let mut bucket = bucket(100.0, 50);
        bucket.take(Duration::ZERO, 50);
        assert_eq!(bucket.take(Duration::from_secs(3600), 60), Duration::from_millis(100));
    }

    #[test]
    fn a_lower_rate_makes_who_already_waits_wait_longer() {
        let mut bucket = bucket(100.0, 0);
        let claim = bucket.claim(Duration::ZERO, 100);
        assert_eq!(bucket.wait(Duration::ZERO, &claim), Duration::from_secs(1));
        bucket.set_rate(Duration::from_millis(500), ByteRate::new(10.0).unwrap());
        assert_eq!(bucket.wait(Duration::from_millis(500), &claim), Duration::from_secs(5));
        assert_eq!(bucket.wait(Duration::from_millis(5500), &claim), Duration::ZERO);
    }

    #[test]
    fn a_higher_rate_makes_who_already_waits_wait_shorter() {
        let mut bucket = bucket(10.0, 0);
        let claim = bucket.claim(Duration::ZERO, 100);
        bucket.set_rate(Duration::from_secs(1), ByteRate::new(90.0).unwrap());
        assert_eq!(bucket.wait(Duration::from_secs(1), &claim), Duration::from_secs(1));
    }

    #[test]
    fn unlimited_admits_who_waits_and_all_that_follow_at_once() {
        let mut bucket = bucket(10.0, 50);
        let claim = bucket.claim(Duration::ZERO, 100);
        bucket.set_unlimited(Duration::ZERO);
        assert_eq!(bucket.rate(), None);
        assert_eq!(bucket.wait(Duration::ZERO, &claim), Duration::ZERO);
        assert_eq!(bucket.take(Duration::ZERO, u64::MAX), Duration::ZERO);
        // Limited again, it has its burst and nothing more.
        bucket.set_rate(Duration::from_secs(9), ByteRate::new(10.0).unwrap());
        assert_eq!(bucket.take(Duration::from_secs(9), 60), Duration::from_secs(1));
    }

    #[test]
    fn a_bucket_that_begins_unlimited_is_full_when_it_gets_a_rate() {
        let mut bucket = TokenBucket::unlimited(50, Duration::ZERO);
        assert_eq!(bucket.take(Duration::ZERO, 1000), Duration::ZERO);
        bucket.set_rate(Duration::ZERO, ByteRate::new(10.0).unwrap());
        assert_eq!(bucket.take(Duration::ZERO, 50), Duration::ZERO);
        assert_eq!(bucket.take(Duration::ZERO, 10), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn bucket_never_admits_more_than_rate_times_time_plus_burst(
            rate in 1.0..1e10f64,
            burst_bytes in 0..1u64 << 24,
            requests in prop::collection::vec((0..1_000_000_000u64, 0..1u64 << 26), 1..100),
        ) {
            let mut bucket = bucket(rate, burst_bytes);
            let (mut now, mut admitted_bytes) = (Duration::ZERO, 0u64);
            for (idle_ns, bytes) in requests {
                now += Duration::from_nanos(idle_ns);
                let wait = bucket.take(now, bytes);
                admitted_bytes += bytes;
                let at = (now + wait).as_secs_f64();
                let allowed = rate.mul_add(at, burst_bytes as f64);
                // A Duration holds whole nanoseconds, and an f64 of the sum 52 bits.
                let slack = rate * 1e-9 * 2.0 + allowed * 1e-9;
                prop_assert!(admitted_bytes as f64 <= allowed + slack, "{admitted_bytes} B by {at} s");
            }
        }

        #[test]
        fn a_request_waits_until_its_promised_instant_and_not_longer(
            rate in 1.0..1e9f64,
            first_bytes in 0..1u64 << 24,
            (burst_bytes, bytes) in (1..1u64 << 20).prop_flat_map(|burst| (Just(burst), 1..=burst)),
        ) {
            let mut once = bucket(rate, burst_bytes);
            once.take(Duration::ZERO, first_bytes);
            let wait = once.clone().take(Duration::ZERO, bytes);
            prop_assume!(wait > Duration::from_micros(1));
            let early = once.clone().take(wait - Duration::from_micros(1), bytes);
            prop_assert!(early > Duration::ZERO, "admitted before the promised instant");
            let due = once.take(wait + Duration::from_nanos(2) + wait / 1_000_000_000, bytes);
            prop_assert_eq!(due, Duration::ZERO, "denied at the promised instant");
        }

        #[test]
        fn across_changes_of_rate_no_more_than_their_integral_plus_burst_is_admitted(
            burst_bytes in 0..1u64 << 20,
            steps in prop::collection::vec((0..300_000_000u64, 0..1u64 << 22, 1e3..1e9f64), 1..60),
        ) {
            let mut rate = steps[0].2;
            let mut bucket = bucket(rate, burst_bytes);
            let (mut now, mut allowed, mut admitted_bytes) = (Duration::ZERO, burst_bytes as f64, 0u64);
            let mut waiting: Vec<(u64, Claim)> = Vec::new();
            for (idle_ns, bytes, next_rate) in steps {
                let idle = Duration::from_nanos(idle_ns);
                now += idle;
                allowed += rate * idle.as_secs_f64();
                waiting.push((bytes, bucket.claim(now, bytes)));
                waiting.retain(|(bytes, claim)| {
                    let is_admitted = bucket.wait(now, claim).is_zero();
                    admitted_bytes += if is_admitted { *bytes } else { 0 };
                    !is_admitted
                });
                prop_assert!(admitted_bytes as f64 <= allowed * (1.0 + 1e-9) + 1e-3, "{admitted_bytes} B by {now:?}");
                bucket.set_rate(now, ByteRate::new(next_rate).unwrap());
                rate = next_rate;
            }
        }

        #[test]
        fn a_claim_is_admitted_at_the_instant_told_since_the_last_change_and_not_before(
            rates in prop::collection::vec(1e3..1e9f64, 1..10),
            bytes in 1..1u64 << 24,
        ) {
            let mut bucket = bucket(rates[0], 0);
            let claim = bucket.claim(Duration::ZERO, bytes);
            let mut now = Duration::ZERO;
            for rate in rates {
                bucket.set_rate(now, ByteRate::new(rate).unwrap());
                let wait = bucket.wait(now, &claim);
                prop_assume!(wait > Duration::from_micros(10));
                let early = bucket.clone().wait(now + wait - Duration::from_micros(1), &claim);
                prop_assert!(early > Duration::ZERO, "admitted before the promised instant");
                let slack = Duration::from_nanos(2) + wait / 1_000_000_000;
                prop_assert_eq!(bucket.clone().wait(now + wait + slack, &claim), Duration::ZERO);
                now += wait / 2;
            }
        }
    }
}
