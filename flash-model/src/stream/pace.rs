//! Rate limiting of reads, by a user's cap for shared disks and by the controller's rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{Booking, Pace};
use flash_sched::{ByteRate, Reservation, TokenBucket};
use parking_lot::Mutex;

/// Burst of the token bucket.
const BURST_BYTES: u64 = 4 << 20;

/// A token bucket with a clock.
#[derive(Debug, Clone)]
pub(crate) struct Pacer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bucket: Mutex<TokenBucket>,
    cap: Option<ByteRate>,
    start: Instant,
}

impl Pacer {
    pub(crate) fn new(cap: Option<ByteRate>) -> Self {
        let bucket = match cap {
            Some(cap) => TokenBucket::new(cap, BURST_BYTES, Duration::ZERO),
            None => TokenBucket::unlimited(BURST_BYTES, Duration::ZERO),
        };
        Self(Arc::new(Shared { bucket: Mutex::new(bucket), cap, start: Instant::now() }))
    }

    /// Limits reads to the lower of `rate` and the cap; `None` leaves the cap alone.
    pub(crate) fn set_rate(&self, rate: Option<ByteRate>) {
        let Shared { bucket, cap, start } = &*self.0;
        let least = rate.into_iter().chain(*cap).min_by(|a, b| a.bytes_per_s().total_cmp(&b.bytes_per_s()));
        let mut bucket = bucket.lock();
        if bucket.rate() == least {
            return;
        }
        match least {
            Some(rate) => bucket.set_rate(start.elapsed(), rate),
            None => bucket.set_unlimited(start.elapsed()),
        }
    }
}

impl Pace for Pacer {
    fn book(&self, bytes: u64) -> Box<dyn Booking> {
        let reservation = self.0.bucket.lock().reserve(self.0.start.elapsed(), bytes);
        Box::new(Booked { shared: Arc::clone(&self.0), reservation })
    }
}

#[derive(Debug)]
struct Booked {
    shared: Arc<Shared>,
    reservation: Reservation,
}

impl Booking for Booked {
    fn pause(&self) -> Duration {
        self.shared.bucket.lock().wait(self.shared.start.elapsed(), &self.reservation)
    }
}
