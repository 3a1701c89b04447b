//! Measures the sustained throughput of the reader: bundles read in order into a few slots, as a model is streamed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flash_io::measure::Stopwatch;
use flash_io::{Budget, BundleLayout, Catalog, IoError, Reader, ReaderConfig, SlotPool};
use serde::Serialize;

/// Number of slots, as in the engine: one is read while the other is computed with.
const N_SLOTS: usize = 2;
/// Duration, long enough to average fluctuations of the disk.
const TIME: Duration = Duration::from_secs(1);

/// Sustained throughput, and the bundles that were read.
#[derive(Debug, Serialize)]
pub(super) struct Sustained {
    pub(super) bytes_per_s: f64,
    /// CPU time of the whole process, as a fraction of one core.
    pub(super) core_share: f64,
    pub(super) bundles: usize,
    pub(super) bundle_bytes_mean: u64,
}

/// Reads the layers in order, repeatedly, for [`TIME`].
pub(super) fn measure(catalog: &Catalog, config: ReaderConfig) -> Result<Sustained, IoError> {
    let bundles = layers(catalog);
    let slot_bytes = bundles.iter().map(|bundle| bundle.slot_bytes()).max().unwrap_or(0);
    let pool = SlotPool::new(&Budget::new(u64::MAX), slot_bytes, N_SLOTS)?;
    let reader = Reader::new(catalog.shards().to_vec(), config)?;

    let mut order = bundles.iter().cycle();
    let mut in_flight = VecDeque::new();
    let mut submit = |in_flight: &mut VecDeque<_>| {
        while let Some(slot) = pool.try_acquire()
            && let Some(bundle) = order.next()
        {
            in_flight.push_back((reader.submit(bundle, slot), bundle.slot_bytes() as u64));
        }
    };
    // Warm up: reading into fresh memory is slower.
    for _ in 0..N_SLOTS {
        submit(&mut in_flight);
        if let Some((ticket, _)) = in_flight.pop_front() {
            drop(ticket.wait()?);
        }
    }
    let (watch, mut bytes, mut n_bundles) = (Stopwatch::start(), 0, 0);
    while watch.time() < TIME {
        submit(&mut in_flight);
        let Some((ticket, bundle_bytes)) = in_flight.pop_front() else { break };
        drop(ticket.wait()?);
        bytes += bundle_bytes;
        n_bundles += 1;
    }
    let sample = watch.sample(bytes);
    Ok(Sustained {
        bytes_per_s: sample.bytes_per_s(),
        core_share: sample.core_share(),
        bundles: n_bundles,
        bundle_bytes_mean: bytes / n_bundles.max(1) as u64,
    })
}

/// Returns one bundle per layer, in order. Tensors outside of layers are skipped.
fn layers(catalog: &Catalog) -> Vec<Arc<BundleLayout>> {
    let mut by_layer: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for tensor in catalog.tensors() {
        if let Some(layer) = tensor.name.split('.').find_map(|part| part.parse().ok()) {
            by_layer.entry(layer).or_default().push((tensor.shard, tensor.span));
        }
    }
    by_layer.values().map(|tensors| Arc::new(BundleLayout::new(tensors))).collect()
}
