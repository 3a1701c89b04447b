//! The machine that residency is planned for.

use std::time::Duration;

use flash_sched::{ByteRate, Disk, Frontier, Prediction, ResidencyPlan, Speeds, predict};

/// A good SSD, in bytes per second.
const DISK_BYTES_PER_S: f64 = 2e9;
/// From asking for a bundle to its first byte, on a machine whose processors are busy: threads have to wake up on the way. It was
/// seen at 0.5 to 1 ms with two processors that compute; the rest is slack, so that one late read need not stall a layer.
const READ_LATENCY: Duration = Duration::from_millis(2);
/// Weights that a processor or GPU computes with, in bytes per second: what two cores of a server reach with 4 bits
/// (docs/performance.md).
const COMPUTE_BYTES_PER_S: f64 = 20e9;

/// What a plan weighs pinned bundles against slots with.
///
/// An engine plans for the default, whatever its machine can do: what a budget pins is nothing that may depend on the
/// moods of a disk. What speeds decide is how many slots there are and where the pinned bundles lie; how many are pinned
/// follows from the budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineSpeeds {
    /// The disk, as a run meets it.
    pub disk: Disk,
    /// Weights that are computed with for one token, per second.
    pub compute: ByteRate,
}

impl Default for MachineSpeeds {
    fn default() -> Self {
        let rate = |bytes_per_s| ByteRate::new(bytes_per_s).expect("a constant that is a rate");
        let disk = Disk { rate: rate(DISK_BYTES_PER_S), latency: READ_LATENCY };
        Self { disk, compute: rate(COMPUTE_BYTES_PER_S) }
    }
}

impl MachineSpeeds {
    /// A machine with such a disk, and the usual way to it.
    pub fn new(disk: ByteRate, compute: ByteRate) -> Self {
        Self { disk: Disk { rate: disk, latency: READ_LATENCY }, compute }
    }

    fn compute_times(&self, bundle_bytes: &[u64]) -> Vec<Duration> {
        // Nothing takes no time at all: rates stay finite.
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
