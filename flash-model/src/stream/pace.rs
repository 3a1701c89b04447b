//! What paces reads: a cap that someone sets, for whoever shares the disk, and the rate of the controller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{Booking, Pace};
use flash_sched::{ByteRate, Claim, TokenBucket};
use parking_lot::Mutex;

/// Reads may run ahead of the rate by this much.
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

    /// Keeps reads to a rate, or to the cap if that is less; `None` leaves the cap.
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
        let claim = self.0.bucket.lock().claim(self.0.start.elapsed(), bytes);
        Box::new(Booked { shared: Arc::clone(&self.0), claim })
    }
}

#[derive(Debug)]
struct Booked {
    shared: Arc<Shared>,
    claim: Claim,
}

impl Booking for Booked {
    fn pause(&self) -> Duration {
        self.shared.bucket.lock().wait(self.shared.start.elapsed(), &self.claim)
    }
}
