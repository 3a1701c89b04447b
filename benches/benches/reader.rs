//! `shard_read/<mode>_{cold,warm}/<bytes>`: one bundle of that size, submitted to a reader of eight threads
//! and waited for.
//!
//! A direct read does not see the page cache, so it is only measured cold.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use flash_io::{Budget, BundleLayout, Catalog, IoError, IoMode, Reader, ReaderConfig, SlotPool};

/// Tensors of each bundle, as in a quantised attention block.
const N_TENSORS: usize = 12;

#[expect(clippy::print_stderr, reason = "a skipped bench says so")]
fn shard_read(c: &mut Criterion) {
    let mut group = c.benchmark_group("shard_read");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for bundle_bytes in [4 << 20, 64 << 20] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("model.safetensors");
        flash_benches::write_shard(&path, "t", N_TENSORS, bundle_bytes / N_TENSORS).unwrap();
        for &mode in IoMode::ALL {
            match Catalog::open(dir.path(), mode) {
                Ok(catalog) => cases(&mut group, &catalog, &path, mode, bundle_bytes),
                Err(error @ IoError::DirectUnsupported { .. }) => eprintln!("skipped {mode}: {error}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
    group.finish();
}

fn cases(
    group: &mut BenchmarkGroup<'_, WallTime>,
    catalog: &Catalog,
    path: &Path,
    mode: IoMode,
    bundle_bytes: usize,
) {
    let spans: Vec<_> = catalog.tensors().map(|tensor| (tensor.shard, tensor.span)).collect();
    let bundle = Arc::new(BundleLayout::new(&spans));
    let pool = SlotPool::new(&Budget::new(1 << 30), bundle.slot_bytes(), 1).unwrap();
    let reader = Reader::new(catalog.shards().to_vec(), ReaderConfig::default()).unwrap();
    let read = || drop(reader.submit(&bundle, pool.try_acquire().unwrap()).wait().unwrap());

    group.throughput(Throughput::Bytes(bundle.wanted_bytes()));
    #[cfg(target_os = "linux")]
    group.bench_function(BenchmarkId::new(format!("{mode}_cold"), bundle_bytes), |b| {
        b.iter_custom(|n| {
            let one = |_| {
                flash_benches::make_cold(path).unwrap();
                let started = Instant::now();
                read();
                started.elapsed()
            };
            (0..n).map(one).sum()
        });
    });
    if mode != IoMode::Direct {
        group.bench_function(BenchmarkId::new(format!("{mode}_warm"), bundle_bytes), |b| b.iter(read));
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    shard_read(&mut criterion);
    criterion.final_summary();
}
