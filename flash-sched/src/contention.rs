//! Contention: how much concurrent reads slow down compute.

use std::collections::VecDeque;

use crate::ByteRate;

/// Number of slopes kept. Missing ones count as 0, which is the prior.
const SLOPES: usize = 15;
/// Two samples are compared only if their rates, and the bytes read, differ by this fraction of the disk's rate:
/// smaller differences are noise.
const SPREAD_MIN: f64 = 0.1;

/// Estimator of the relative slope of compute time over the rate of concurrent reads.
///
/// A bundle's compute time is modelled as `t × (1 + κ × rate)`. Whenever the read rate during a bundle differs from
/// that of one token before, the two samples give a slope `(t₁ / t₀ − 1) / (rate₁ − rate₀)`, and `κ` is the median of
/// the last `SLOPES` slopes. This is the Theil–Sen estimator, restricted to pairs so close in time that drift of the
/// processor's speed cancels. It tolerates outliers in almost half of the slopes.
#[derive(Debug, Clone)]
pub(crate) struct Contention {
    last: Vec<Option<Sample>>,
    slopes: VecDeque<f64>,
}

/// The latest sample of a bundle.
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

    /// Records that computing a bundle took `compute_s` while `read_bytes` were read, from a disk whose rate is at most
    /// `ceiling`.
    pub(crate) fn observe(&mut self, bundle: usize, compute_s: f64, read_bytes: f64, ceiling: ByteRate) {
        if compute_s <= 0.0 {
            return;
        }
        let new = Sample { compute_s, read_bytes };
        let Some(old) = self.last[bundle].replace(new) else { return };
        let (quiet, loaded) = if new.rate() < old.rate() { (new, old) } else { (old, new) };
        let spread = SPREAD_MIN * ceiling.bytes_per_s();
        // Bytes must differ too: the rate alone also changes with the processor's speed, which is not contention.
        let spread_bytes = spread * compute_s.max(old.compute_s);
        if loaded.rate() - quiet.rate() >= spread
            && (loaded.read_bytes - quiet.read_bytes).abs() >= spread_bytes
        {
            self.slopes.pop_front();
            self.slopes
                .push_back((loaded.compute_s / quiet.compute_s - 1.0) / (loaded.rate() - quiet.rate()));
        }
    }

    /// Returns κ, the relative slowdown of compute per byte per second of reads, in seconds per byte; never negative.
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

    /// Observes one bundle at alternating read rates, with the compute time given by `time_s`.
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
            // The noise of two samples, divided by the difference of their rates.
            let error = (contention.coefficient() - coefficient).abs();
            prop_assert!(error < 0.035 * (1.0 + coefficient * 8e8) / 8e8, "{error} of {coefficient}");
        }
    }
}
