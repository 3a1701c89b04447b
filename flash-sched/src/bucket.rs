//! A token bucket that returns wait times instead of sleeping.

use std::time::Duration;

use crate::ByteRate;

/// The shortest wait: the resolution of [`Duration`].
const TICK: Duration = Duration::from_nanos(1);

/// A token bucket: limits reads to a rate, and allows a burst.
///
/// By any time, the bucket has admitted at most `rate × time + burst` bytes; if the rate changes, the integral of the
/// rate replaces `rate × time`. A request larger than the burst is admitted once its whole cost is paid: it creates a
/// debt that the following requests wait for. Credit is computed from the clock and never from waits, so time slept is
/// credited only once.
///
/// If the rate may change during a wait, hold a [`Reservation`] and call [`wait`](Self::wait) again before using the
/// bytes: a lower rate extends the wait, a higher one shortens it.
///
/// `now` is the time since any fixed start. A `now` earlier than that of a previous call counts as the previous one,
/// because the clock readings of several threads may be out of order.
///
/// ```
/// use std::time::Duration;
///
/// use flash_sched::{ByteRate, TokenBucket};
///
/// // 100 bytes a second, and 50 bytes at once: the second request waits until its debt of 50 bytes is paid.
/// let mut bucket = TokenBucket::new(ByteRate::new(100.0)?, 50, Duration::ZERO);
/// assert_eq!(bucket.take(Duration::ZERO, 50), Duration::ZERO);
/// assert_eq!(bucket.take(Duration::ZERO, 50), Duration::from_millis(500));
/// # Ok::<(), flash_sched::InvalidRate>(())
/// ```
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// `None` while unlimited.
    rate: Option<ByteRate>,
    burst_bytes: f64,
    /// Bytes available without a wait at `updated`; negative while in debt.
    level_bytes: f64,
    /// Total credit so far, in bytes; an `f64` is exact up to 9 PB.
    credit_bytes: f64,
    updated: Duration,
}

/// A reservation of bytes from a [`TokenBucket`]: already taken, and usable once paid.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "the bytes may be used only once `TokenBucket::wait` returns zero"]
pub struct Reservation {
    /// Total credit at which the reservation is paid.
    due_bytes: f64,
}

impl TokenBucket {
    /// Creates a full bucket at time `now`.
    pub fn new(rate: ByteRate, burst_bytes: u64, now: Duration) -> Self {
        let burst_bytes = burst_bytes as f64;
        let level_bytes = burst_bytes;
        Self { rate: Some(rate), burst_bytes, level_bytes, credit_bytes: 0.0, updated: now }
    }

    /// Creates a bucket without a limit, until a [rate](Self::set_rate) is set.
    pub fn unlimited(burst_bytes: u64, now: Duration) -> Self {
        let burst_bytes = burst_bytes as f64;
        Self { rate: None, burst_bytes, level_bytes: burst_bytes, credit_bytes: 0.0, updated: now }
    }

    /// Returns the rate; `None` while unlimited.
    pub fn rate(&self) -> Option<ByteRate> {
        self.rate
    }

    /// Changes the rate from `now` on. Credit and debt are kept: debt is paid at the new rate.
    pub fn set_rate(&mut self, now: Duration, rate: ByteRate) {
        self.credit(now);
        self.rate = Some(rate);
    }

    /// Removes the limit from `now` on, also for waiting reservations, and fills the bucket.
    pub fn set_unlimited(&mut self, now: Duration) {
        self.credit(now);
        self.rate = None;
        self.fill();
    }

    /// Takes `bytes` at time `now` and returns how long to wait before using them at a constant rate.
    ///
    /// The wait is not adjusted if the rate changes meanwhile: use [`reserve`](Self::reserve) for that.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let reservation = self.reserve(now, bytes);
        self.wait(now, &reservation)
    }

    /// Takes `bytes` at time `now`; they may be used once [`wait`](Self::wait) returns zero.
    pub fn reserve(&mut self, now: Duration, bytes: u64) -> Reservation {
        self.credit(now);
        if self.rate.is_some() {
            self.level_bytes -= bytes as f64;
        }
        Reservation { due_bytes: self.credit_bytes + (-self.level_bytes).max(0.0) }
    }

    /// Returns how long a reservation has to wait from `now` on at the current rate; zero when its bytes may be used.
    pub fn wait(&mut self, now: Duration, reservation: &Reservation) -> Duration {
        self.credit(now);
        let owed_bytes = reservation.due_bytes - self.credit_bytes;
        let Some(rate) = self.rate.filter(|_| owed_bytes > 0.0) else { return Duration::ZERO };
        let owed = Duration::try_from_secs_f64(owed_bytes / rate.bytes_per_s()).unwrap_or(Duration::MAX);
        let behind = self.updated - now.min(self.updated);
        // An unpaid reservation never waits zero, even if the debt is below the clock's resolution.
        owed.max(TICK).saturating_add(behind)
    }

    /// Adds the credit for the time up to `now`.
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
        // The debt delays the next request.
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
    fn a_lower_rate_extends_the_wait_of_a_reservation() {
        let mut bucket = bucket(100.0, 0);
        let reservation = bucket.reserve(Duration::ZERO, 100);
        assert_eq!(bucket.wait(Duration::ZERO, &reservation), Duration::from_secs(1));
        bucket.set_rate(Duration::from_millis(500), ByteRate::new(10.0).unwrap());
        assert_eq!(bucket.wait(Duration::from_millis(500), &reservation), Duration::from_secs(5));
        assert_eq!(bucket.wait(Duration::from_millis(5500), &reservation), Duration::ZERO);
    }

    #[test]
    fn a_higher_rate_shortens_the_wait_of_a_reservation() {
        let mut bucket = bucket(10.0, 0);
        let reservation = bucket.reserve(Duration::ZERO, 100);
        bucket.set_rate(Duration::from_secs(1), ByteRate::new(90.0).unwrap());
        assert_eq!(bucket.wait(Duration::from_secs(1), &reservation), Duration::from_secs(1));
    }

    #[test]
    fn removing_the_limit_admits_waiting_reservations_and_later_requests_at_once() {
        let mut bucket = bucket(10.0, 50);
        let reservation = bucket.reserve(Duration::ZERO, 100);
        bucket.set_unlimited(Duration::ZERO);
        assert_eq!(bucket.rate(), None);
        assert_eq!(bucket.wait(Duration::ZERO, &reservation), Duration::ZERO);
        assert_eq!(bucket.take(Duration::ZERO, u64::MAX), Duration::ZERO);
        // With a limit again, it has its burst and nothing more.
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
                // Tolerates the rounding of `Duration` to nanoseconds and of `f64` sums to 52 bits.
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
            let mut waiting: Vec<(u64, Reservation)> = Vec::new();
            for (idle_ns, bytes, next_rate) in steps {
                let idle = Duration::from_nanos(idle_ns);
                now += idle;
                allowed += rate * idle.as_secs_f64();
                waiting.push((bytes, bucket.reserve(now, bytes)));
                waiting.retain(|(bytes, reservation)| {
                    let is_admitted = bucket.wait(now, reservation).is_zero();
                    admitted_bytes += if is_admitted { *bytes } else { 0 };
                    !is_admitted
                });
                prop_assert!(admitted_bytes as f64 <= allowed * (1.0 + 1e-9) + 1e-3, "{admitted_bytes} B by {now:?}");
                bucket.set_rate(now, ByteRate::new(next_rate).unwrap());
                rate = next_rate;
            }
        }

        #[test]
        fn a_reservation_is_admitted_exactly_at_the_instant_returned_after_the_last_change(
            rates in prop::collection::vec(1e3..1e9f64, 1..10),
            bytes in 1..1u64 << 24,
        ) {
            let mut bucket = bucket(rates[0], 0);
            let reservation = bucket.reserve(Duration::ZERO, bytes);
            let mut now = Duration::ZERO;
            for rate in rates {
                bucket.set_rate(now, ByteRate::new(rate).unwrap());
                let wait = bucket.wait(now, &reservation);
                prop_assume!(wait > Duration::from_micros(10));
                let early = bucket.clone().wait(now + wait - Duration::from_micros(1), &reservation);
                prop_assert!(early > Duration::ZERO, "admitted before the promised instant");
                let slack = Duration::from_nanos(2) + wait / 1_000_000_000;
                prop_assert_eq!(bucket.clone().wait(now + wait + slack, &reservation), Duration::ZERO);
                now += wait / 2;
            }
        }
    }
}
