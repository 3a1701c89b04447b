//! What the reader sustains when bundles are read one behind the other into a few slots, as a model is streamed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flash_io::measure::Stopwatch;
use flash_io::{Budget, BundleLayout, Catalog, IoError, Reader, ReaderConfig, SlotPool};
use serde::Serialize;

/// As the engine has them: one is read while the other computes.
const N_SLOTS: usize = 2;
/// Long enough to even out the disk's moods.
const TIME: Duration = Duration::from_secs(1);

/// A rate, and what it was measured with.
#[derive(Debug, Serialize)]
pub(super) struct Sustained {
    pub(super) bytes_per_s: f64,
    /// Processor time of the whole process, as a part of one core's.
    pub(super) core_share: f64,
    pub(super) bundles: usize,
    pub(super) bundle_bytes_mean: u64,
}

/// Reads the layers in their order, round and round, for [`TIME`].
pub(super) fn measure(catalog: &Catalog, config: ReaderConfig) -> Result<Sustained, IoError> {
    let bundles = layers(catalog);
    let slot_bytes = bundles.iter().map(|bundle| bundle.slot_bytes()).max().unwrap_or(0);
    let pool = SlotPool::new(&Budget::new(u64::MAX), slot_bytes, N_SLOTS)?;
    let reader = Reader::new(catalog.shards().to_vec(), config)?;

    let mut order = bundles.iter().cycle();
    let mut under_way = VecDeque::new();
    let mut next = |under_way: &mut VecDeque<_>| {
        while let Some(slot) = pool.try_acquire()
            && let Some(bundle) = order.next()
        {
            under_way.push_back((reader.submit(bundle, slot), bundle.slot_bytes() as u64));
        }
    };
    // Fresh memory costs more to read into than a slot that was used before.
    for _ in 0..N_SLOTS {
        next(&mut under_way);
        if let Some((ticket, _)) = under_way.pop_front() {
            drop(ticket.wait()?);
        }
    }
    let (watch, mut bytes, mut n_bundles) = (Stopwatch::start(), 0, 0);
    while watch.time() < TIME {
        next(&mut under_way);
        let Some((ticket, bundle_bytes)) = under_way.pop_front() else { break };
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

/// The tensors of each layer as one bundle, in the order of the layers; those of no layer are left out.
fn layers(catalog: &Catalog) -> Vec<Arc<BundleLayout>> {
    let mut by_layer: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for tensor in catalog.tensors() {
        if let Some(layer) = tensor.name.split('.').find_map(|part| part.parse().ok()) {
            by_layer.entry(layer).or_default().push((tensor.shard, tensor.span));
        }
    }
    by_layer.values().map(|tensors| Arc::new(BundleLayout::new(tensors))).collect()
}
