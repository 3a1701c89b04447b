//! What a step usually costs, and the limit that the hardware sets.

use std::time::Duration;

use crate::ByteRate;

/// Weight of the newest sample in the moving average.
pub const EMA_ALPHA: f64 = 0.3;
/// A sample above this multiple of the baseline says something of the machine's other work, not of ours.
pub const OUTLIER_FACTOR: f64 = 3.0;

/// An exponential moving average of durations that rejects outliers.
///
/// The first sample is the baseline. A sample above [`OUTLIER_FACTOR`] × the baseline is rejected; a smaller one
/// than the baseline becomes it.
#[derive(Debug, Clone, Default)]
pub struct Ema {
    baseline_s: Option<f64>,
    value_s: f64,
}

impl Ema {
    /// Takes a sample in; false if it was rejected.
    pub fn observe(&mut self, sample: Duration) -> bool {
        let sample_s = sample.as_secs_f64();
        let Some(baseline_s) = self.baseline_s else {
            self.baseline_s = Some(sample_s);
            self.value_s = sample_s;
            return true;
        };
        if sample_s > baseline_s * OUTLIER_FACTOR {
            return false;
        }
        self.baseline_s = Some(baseline_s.min(sample_s));
        self.value_s += EMA_ALPHA * (sample_s - self.value_s);
        true
    }

    /// The average; none before the first sample.
    pub fn value(&self) -> Option<Duration> {
        self.baseline_s.map(|_| Duration::from_secs_f64(self.value_s))
    }
}

/// What one token costs at least: its compute, or the reading of what is streamed, whichever is longer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Compute of one token, without waits.
    pub compute: Duration,
    /// Bytes streamed for one token.
    pub streamed_bytes: u64,
    /// What the disk gives; none if nothing was read.
    pub disk: Option<ByteRate>,
}

impl Limit {
    /// The shortest possible time of a token.
    pub fn token_time(&self) -> Duration {
        let reading = self.disk.map_or(Duration::ZERO, |disk| disk.time_for(self.streamed_bytes));
        self.compute.max(reading)
    }

    /// How much of the possible speed a token of `actual` reached: 1 at the limit, 0.5 at half the speed.
    pub fn fraction(&self, actual: Duration) -> f64 {
        if actual.is_zero() { 0.0 } else { self.token_time().as_secs_f64() / actual.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn first_sample_is_the_average() {
        let mut ema = Ema::default();
        assert_eq!(ema.value(), None);
        assert!(ema.observe(10 * MS));
        assert_eq!(ema.value(), Some(10 * MS));
    }

    #[test]
    fn sample_above_three_baselines_is_rejected() {
        let mut ema = Ema::default();
        ema.observe(10 * MS);
        assert!(!ema.observe(31 * MS));
        assert_eq!(ema.value(), Some(10 * MS));
        assert!(ema.observe(30 * MS));
        assert_eq!(ema.value(), Some(16 * MS));
    }

    #[test]
    fn a_faster_sample_lowers_the_baseline() {
        let mut ema = Ema::default();
        ema.observe(10 * MS);
        ema.observe(5 * MS);
        assert!(!ema.observe(16 * MS));
    }

    #[test]
    fn limit_is_the_longer_of_compute_and_reading() {
        let disk = ByteRate::new(1e9).ok();
        let disk_bound = Limit { compute: 10 * MS, streamed_bytes: 50_000_000, disk };
        assert_eq!(disk_bound.token_time(), 50 * MS);
        assert!((disk_bound.fraction(100 * MS) - 0.5).abs() < 1e-9);
        let resident = Limit { compute: 10 * MS, streamed_bytes: 0, disk: None };
        assert_eq!(resident.token_time(), 10 * MS);
    }
}
