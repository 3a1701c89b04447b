//! A cap on the disk traffic, for whoever shares the disk.

use std::time::{Duration, Instant};

use flash_io::Pace;
use flash_sched::{ByteRate, TokenBucket};
use parking_lot::Mutex;

/// Reads may run ahead of the rate by this much.
const BURST_BYTES: u64 = 4 << 20;

/// A token bucket with a clock.
#[derive(Debug)]
pub(crate) struct RateCap {
    bucket: Mutex<TokenBucket>,
    start: Instant,
}

impl RateCap {
    pub(crate) fn new(rate: ByteRate) -> Self {
        Self {
            bucket: Mutex::new(TokenBucket::new(rate, BURST_BYTES, Duration::ZERO)),
            start: Instant::now(),
        }
    }
}

impl Pace for RateCap {
    fn admit(&self, bytes: u64) -> Duration {
        self.bucket.lock().take(self.start.elapsed(), bytes)
    }
}
