//! A token bucket that returns waits instead of sleeping.

use std::time::Duration;

use crate::ByteRate;

/// Paces reads to a rate, allowing a burst.
///
/// Up to any instant the bucket admits at most `rate × time + burst` bytes. A request larger than the burst is
/// admitted too, once the time for the whole of it has passed: it goes into debt, which the following requests wait
/// for. Time slept is credited once, because credit is always computed from the clock and never from the wait.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: ByteRate,
    burst_bytes: f64,
    /// What may be taken at `updated` without a wait; negative while a debt is paid.
    level_bytes: f64,
    updated: Duration,
}

impl TokenBucket {
    /// A full bucket at time `now`.
    pub fn new(rate: ByteRate, burst_bytes: u64, now: Duration) -> Self {
        let burst_bytes = burst_bytes as f64;
        Self { rate, burst_bytes, level_bytes: burst_bytes, updated: now }
    }

    /// Takes `bytes` at time `now` and returns how long to wait before using them.
    ///
    /// A `now` before that of an earlier call counts as that earlier one: clocks of several threads may cross.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let elapsed = now.saturating_sub(self.updated);
        self.updated = self.updated.max(now);
        let credit = elapsed.as_secs_f64() * self.rate.bytes_per_s();
        self.level_bytes = (self.level_bytes + credit).min(self.burst_bytes) - bytes as f64;
        let behind = self.updated - now.min(self.updated);
        if self.level_bytes >= 0.0 {
            return Duration::ZERO;
        }
        let debt =
            Duration::try_from_secs_f64(-self.level_bytes / self.rate.bytes_per_s()).unwrap_or(Duration::MAX);
        debt.saturating_add(behind)
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
    }
}
