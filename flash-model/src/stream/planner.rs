//! The machine model that residency is planned for.

use std::time::Duration;

use flash_sched::{ByteRate, Disk, Frontier, Prediction, ResidencyPlan, Speeds, predict};

/// A good SSD, in bytes per second.
const DISK_BYTES_PER_S: f64 = 2e9;
/// Time from requesting a bundle to its first byte on a machine whose processors are busy, since threads have to wake
/// up. It was measured at 0.5 to 1 ms with two computing processors; the rest is slack, so that one late read does not
/// stall a layer.
const READ_LATENCY: Duration = Duration::from_millis(2);
/// Weights computed with, in bytes per second: the rate of two server cores at 4 bits (docs/performance.md).
const COMPUTE_BYTES_PER_S: f64 = 20e9;

/// Disk and compute speeds that a residency plan is optimized for.
///
/// An engine always plans for the default, so that plans do not depend on fluctuating measurements. Speeds decide the
/// number of slots and the positions of the pinned bundles; how many are pinned follows from the budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineSpeeds {
    /// The disk, with the latency that a run sees.
    pub disk: Disk,
    /// Bytes of weights computed with per second, for one token.
    pub compute: ByteRate,
}

impl Default for MachineSpeeds {
    fn default() -> Self {
        let rate = |bytes_per_s| ByteRate::new(bytes_per_s).expect("the constant is a valid rate");
        let disk = Disk { rate: rate(DISK_BYTES_PER_S), latency: READ_LATENCY };
        Self { disk, compute: rate(COMPUTE_BYTES_PER_S) }
    }
}

impl MachineSpeeds {
    /// Creates the model of a machine, with the default latency.
    pub fn new(disk: ByteRate, compute: ByteRate) -> Self {
        Self { disk: Disk { rate: disk, latency: READ_LATENCY }, compute }
    }

    fn compute_times(&self, bundle_bytes: &[u64]) -> Vec<Duration> {
        // Times are not 0, so that rates stay finite.
        let time = |&bytes: &u64| self.compute.time_for(bytes).max(Duration::from_nanos(1));
        bundle_bytes.iter().map(time).collect()
    }

    pub(crate) fn frontier(&self, bundle_bytes: &[u64], n_slots_min: usize) -> Frontier {
        let compute = self.compute_times(bundle_bytes);
        Frontier::new(bundle_bytes, n_slots_min, Speeds { compute: &compute, disk: self.disk })
    }

    pub(crate) fn predict(&self, bundle_bytes: &[u64], plan: &ResidencyPlan) -> Prediction {
        let compute = self.compute_times(bundle_bytes);
        let speeds = Speeds { compute: &compute, disk: self.disk };
        predict(bundle_bytes, &plan.pinned, plan.n_slots, &speeds)
    }
}
