//! Estimates of step times, and the speed limit set by the hardware.

use std::time::Duration;

use crate::ByteRate;

/// Weight of the newest sample in the moving average.
pub const EMA_ALPHA: f64 = 0.3;
/// A sample above this multiple of the baseline is an outlier, caused by other work on the machine.
pub const OUTLIER_FACTOR: f64 = 3.0;

/// This many consecutive outliers mean that the step itself has become slower.
pub const RELEARN_SAMPLES: usize = 3;

/// An exponential moving average of durations that rejects outliers.
///
/// The first sample is the baseline. A sample above [`OUTLIER_FACTOR`] × the baseline is rejected; one below the
/// baseline becomes the baseline. After [`RELEARN_SAMPLES`] consecutive outliers, their median becomes baseline and
/// average.
///
/// Ten samples after a change by a factor of two, in either direction, 0.7^10 = 3 % of it remains in the average.
#[derive(Debug, Clone, Default)]
pub struct Ema {
    baseline_s: Option<f64>,
    value_s: f64,
    rejected_s: Vec<f64>,
}

impl Ema {
    /// Adds a sample; returns false if it was rejected.
    pub fn observe(&mut self, sample: Duration) -> bool {
        let sample_s = sample.as_secs_f64();
        let Some(baseline_s) = self.baseline_s else {
            self.restart(sample_s);
            return true;
        };
        if sample_s > baseline_s * OUTLIER_FACTOR {
            self.rejected_s.push(sample_s);
            if self.rejected_s.len() < RELEARN_SAMPLES {
                return false;
            }
            self.rejected_s.sort_by(f64::total_cmp);
            self.restart(self.rejected_s[RELEARN_SAMPLES / 2]);
            return true;
        }
        self.rejected_s.clear();
        self.baseline_s = Some(baseline_s.min(sample_s));
        self.value_s += EMA_ALPHA * (sample_s - self.value_s);
        true
    }

    fn restart(&mut self, sample_s: f64) {
        self.rejected_s.clear();
        self.baseline_s = Some(sample_s);
        self.value_s = sample_s;
    }

    /// Returns the average; `None` before the first sample.
    pub fn value(&self) -> Option<Duration> {
        self.baseline_s.map(|_| Duration::from_secs_f64(self.value_s))
    }
}

/// Lower bound on the time of a token: its compute, or the reading of what is streamed, whichever is longer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Compute time of one token, without waits.
    pub compute: Duration,
    /// Bytes streamed per token.
    pub streamed_bytes: u64,
    /// Disk rate; `None` if nothing was read.
    pub disk: Option<ByteRate>,
}

impl Limit {
    /// Returns the shortest possible time of a token.
    pub fn token_time(&self) -> Duration {
        let reading = self.disk.map_or(Duration::ZERO, |disk| disk.time_for(self.streamed_bytes));
        self.compute.max(reading)
    }

    /// Returns the achieved fraction of the possible speed for a token of `actual`: 1 at the limit, 0.5 at half the
    /// speed.
    pub fn fraction(&self, actual: Duration) -> f64 {
        if actual.is_zero() { 0.0 } else { self.token_time().as_secs_f64() / actual.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn three_outliers_in_a_row_are_the_new_baseline_and_two_are_not() {
        let mut ema = Ema::default();
        ema.observe(10 * MS);
        assert!(!ema.observe(50 * MS) && !ema.observe(60 * MS));
        assert!(ema.observe(10 * MS));
        assert!(!ema.observe(50 * MS) && !ema.observe(70 * MS));
        assert!(ema.observe(60 * MS));
        assert_eq!(ema.value(), Some(60 * MS));
    }

    proptest! {
        #[test]
        fn a_change_by_a_factor_of_two_and_more_is_learned_within_ten_samples(
            // Between these ranges, noise decides which samples are outliers.
            factor in prop_oneof![0.3..2.5f64, 3.5..20.0f64],
            noise in prop::collection::vec(0.97..1.03f64, 60),
        ) {
            let mut ema = Ema::default();
            let (before, after) = noise.split_at(50);
            for noise in before {
                ema.observe((10 * MS).mul_f64(*noise));
            }
            for noise in after {
                ema.observe((10 * MS).mul_f64(factor * noise));
            }
            let ratio = ema.value().unwrap().as_secs_f64() / (10e-3 * factor);
            // 0.7^10 of the change, plus noise.
            prop_assert!((ratio - 1.0).abs() <= 0.03 + 0.03 * (1.0 / factor - 1.0).abs(), "{ratio}");
        }
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
