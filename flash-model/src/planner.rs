//! The machine that residency is planned for.
//!
//! A plan is made before anything is measured, and must be the same in every run: a floor, or what a budget pins, is nothing that
//! may depend on the moods of a disk. So it is made for usual speeds. What they decide is how many slots there are, and
//! where the pinned bundles lie; how many there are follows from the budget.

use std::time::Duration;

use flash_sched::{ByteRate, Disk, Frontier, Speeds};

/// A good SSD.
const DISK_BYTES_PER_S: f64 = 2e9;
/// From asking for a bundle to its first byte, on a machine whose processors are busy: threads have to wake up on the way. It was
/// seen at 0.5 to 1 ms with two processors that compute; the rest is slack, so that one late read need not stall a layer.
const READ_LATENCY: Duration = Duration::from_millis(2);
/// Weights that a processor, or GPU, computes with.
const COMPUTE_BYTES_PER_S: f64 = 20e9;

pub(crate) fn frontier(bundle_bytes: &[u64], n_slots_min: usize) -> Frontier {
    let rate = |bytes_per_s| ByteRate::new(bytes_per_s).expect("a constant that is a rate");
    let compute: Vec<_> =
        bundle_bytes.iter().map(|&bytes| rate(COMPUTE_BYTES_PER_S).time_for(bytes)).collect();
    let disk = Disk { rate: rate(DISK_BYTES_PER_S), latency: READ_LATENCY };
    Frontier::new(bundle_bytes, n_slots_min, Speeds { compute: &compute, disk })
}
