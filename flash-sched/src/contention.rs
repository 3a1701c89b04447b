//! How much reading slows computing down.

use std::collections::VecDeque;

use crate::ByteRate;

/// Slopes that are remembered. Before there are as many, the missing ones are 0: that is the prior.
const SLOPES: usize = 15;
/// Samples tell something if their rates, and the bytes read, differ by this part of what the disk can give: less is noise.
const SPREAD_MIN: f64 = 0.1;

/// The slope of compute time over the rate of concurrent reads.
///
/// A bundle's compute time is taken as `t × (1 + κ × rate)`. Whenever more or less is read while a bundle is computed than one
/// token before, the two samples give a slope `(t₁ / t₀ − 1) / (rate₁ − rate₀)`, and `κ` is the median of the last
/// `SLOPES` slopes: Theil and Sen's estimator, over the pairs that no drift of the processor's speed lies between. It
/// bears outliers in almost half of the slopes.
#[derive(Debug, Clone)]
pub(crate) struct Contention {
    last: Vec<Option<Sample>>,
    slopes: VecDeque<f64>,
}

/// The last one of a bundle.
#[derive(Debug, Clone, Copy)]
struct Sample {
    compute_s: f64,
    read_bytes: f64,
}

impl Sample {
    fn rate(&self) -> f64 {
        self.read_bytes / self.compute_s
    }
}

impl Contention {
    pub(crate) fn new(n_bundles: usize) -> Self {
        Self { last: vec![None; n_bundles], slopes: VecDeque::from([0.0; SLOPES]) }
    }

    /// Takes in that a bundle took `compute_s` while `read_bytes` were read from a disk that gives `ceiling`.
    pub(crate) fn observe(&mut self, bundle: usize, compute_s: f64, read_bytes: f64, ceiling: ByteRate) {
        if compute_s <= 0.0 {
            return;
        }
        let new = Sample { compute_s, read_bytes };
        let Some(old) = self.last[bundle].replace(new) else { return };
        let (quiet, loaded) = if new.rate() < old.rate() { (new, old) } else { (old, new) };
        let spread = SPREAD_MIN * ceiling.bytes_per_s();
        // Bytes, not rates alone: these also change when the processor does, and that is no contention.
        let spread_bytes = spread * compute_s.max(old.compute_s);
        if loaded.rate() - quiet.rate() >= spread
            && (loaded.read_bytes - quiet.read_bytes).abs() >= spread_bytes
        {
            self.slopes.pop_front();
            self.slopes
                .push_back((loaded.compute_s / quiet.compute_s - 1.0) / (loaded.rate() - quiet.rate()));
        }
    }

    /// The part by which each byte per second makes computing slower, in seconds per byte; never negative.
    pub(crate) fn coefficient(&self) -> f64 {
        let mut slopes: Vec<f64> = self.slopes.iter().copied().collect();
        slopes.sort_by(f64::total_cmp);
        slopes[SLOPES / 2].max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CEILING: f64 = 1e9;

    /// Samples of one bundle that takes 10 ms and more, at alternating rates.
    fn observe(contention: &mut Contention, rates: [f64; 2], n: usize, time_s: impl Fn(usize, f64) -> f64) {
        for k in 0..n {
            let rate = rates[k % 2];
            let compute_s = time_s(k, rate);
            contention.observe(0, compute_s, rate * compute_s, ByteRate::new(CEILING).unwrap());
        }
    }

    #[test]
    fn prior_is_zero_until_half_of_the_slopes_are_measured() {
        let mut contention = Contention::new(1);
        observe(&mut contention, [0.0, 5e8], 8, |_, rate| 10e-3 * (1.0 + 2e-10 * rate));
        assert_eq!(contention.coefficient(), 0.0);
        observe(&mut contention, [0.0, 5e8], 2, |_, rate| 10e-3 * (1.0 + 2e-10 * rate));
        assert!((contention.coefficient() / 2e-10 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn equal_rates_tell_nothing() {
        let mut contention = Contention::new(1);
        observe(&mut contention, [5e8, 5.5e8], 50, |k, _| 10e-3 * (k + 1) as f64);
        assert_eq!(contention.coefficient(), 0.0);
    }

    #[test]
    fn faster_compute_while_reading_counts_as_no_contention() {
        let mut contention = Contention::new(1);
        observe(&mut contention, [0.0, 5e8], 50, |_, rate| 10e-3 * (1.0 - 2e-10 * rate));
        assert_eq!(contention.coefficient(), 0.0);
    }

    proptest! {
        #[test]
        fn coefficient_bears_noise_outliers_and_a_drifting_processor(
            coefficient in 1e-10..5e-10f64,
            drift in 0.995..1.005f64,
            noise in prop::collection::vec(0.99..1.01f64, 40),
            outliers in prop::collection::vec(0..40usize, 0..3),
        ) {
            let mut contention = Contention::new(1);
            observe(&mut contention, [0.0, 8e8], 40, |k, rate| {
                let outlier = if outliers.contains(&k) { 8.0 } else { 1.0 };
                10e-3 * (1.0 + coefficient * rate) * noise[k] * outlier * drift.powi(k as i32)
            });
            // Noise of two samples, over the difference of their rates.
            let error = (contention.coefficient() - coefficient).abs();
            prop_assert!(error < 0.035 * (1.0 + coefficient * 8e8) / 8e8, "{error} of {coefficient}");
        }
    }
}
