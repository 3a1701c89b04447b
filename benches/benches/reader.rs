//! `shard_read/<mode>_cold/<size>`, and `shard_read/<mode>_warm/<size>` for modes that use the page cache: reads
//! bundles of this size in file order, as weights are streamed. Further bundles are queued during each wait, so that
//! the disk has up to [`ReaderConfig::depth`] concurrent reads. An iteration is one bundle. Bundles start at tensors,
//! not at blocks.
//!
//! `cold`: no byte of the file is in the page cache at the start, and none is read twice before the cache is evicted
//! again, which is not timed. The kernel's read-ahead for `pread` and maps counts as part of these modes.
//! `warm`: all of the file is in the page cache.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use flash_io::{Budget, BundleLayout, Catalog, IoError, IoMode, Reader, ReaderConfig, SlotPool, Ticket};

/// Size of the file: many times the internal cache of a device, and quick to write.
const FILE_BYTES: usize = 256 << 20;
const TENSOR_BYTES: usize = 64 << 10;
const SIZES: [(&str, usize); 3] = [("64KiB", 64 << 10), ("1MiB", 1 << 20), ("16MiB", 16 << 20)];

/// Bytes of all slots: enough for a full queue of small bundles, and for two large bundles.
const SLOTS_BYTES: usize = 32 << 20;
const N_SLOTS_MAX: usize = 32;

#[expect(clippy::print_stderr, reason = "skipped benches are reported")]
fn shard_read(c: &mut Criterion) {
    let mut group = c.benchmark_group("shard_read");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group.sampling_mode(SamplingMode::Flat);
    let path = shard();
    for &mode in IoMode::ALL {
        match Catalog::open(path.parent().unwrap(), mode) {
            Ok(catalog) => cases(&mut group, &catalog, &path, mode),
            Err(
                error @ (IoError::UringUnsupported { .. }
                | IoError::DirectUnsupported { .. }
                | IoError::DirectAlignment { .. }),
            ) => eprintln!("skipped {mode}: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
    group.finish();
}

/// Returns the path of the file in the target directory, creating it on the first run.
fn shard() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shard_read");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("model.safetensors");
    let is_whole = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > FILE_BYTES as u64);
    if !is_whole {
        flash_benches::write_shard(&path, "t", FILE_BYTES / TENSOR_BYTES, TENSOR_BYTES).unwrap();
    }
    path
}

fn cases(group: &mut BenchmarkGroup<'_, WallTime>, catalog: &Catalog, path: &Path, mode: IoMode) {
    let is_cached = matches!(mode, IoMode::Pread | IoMode::Mmap);
    for (size, bundle_bytes) in SIZES {
        let mut stream = Stream::new(catalog, bundle_bytes);
        group.throughput(Throughput::Bytes(bundle_bytes as u64));
        if !is_cached || cfg!(target_os = "linux") {
            group.bench_function(BenchmarkId::new(format!("{mode}_cold"), size), |b| {
                b.iter_custom(|n| stream.read(n, || make_cold(path)));
            });
        }
        if is_cached {
            group.bench_function(BenchmarkId::new(format!("{mode}_warm"), size), |b| {
                b.iter_custom(|n| stream.read(n, || make_warm(path)));
            });
        }
    }
}

fn make_cold(path: &Path) {
    #[cfg(target_os = "linux")]
    flash_benches::make_cold(path).unwrap();
    #[cfg(not(target_os = "linux"))]
    let _ = path;
}

fn make_warm(path: &Path) {
    io::copy(&mut File::open(path).unwrap(), &mut io::sink()).unwrap();
}

/// The bundles of a file, read repeatedly.
struct Stream {
    bundles: Vec<Arc<BundleLayout>>,
    /// Number of bundles read in the current pass over the file. If all were read, the next read starts a new pass.
    n_read: usize,
    pool: SlotPool,
    reader: Reader,
}

impl Stream {
    fn new(catalog: &Catalog, bundle_bytes: usize) -> Self {
        let mut tensors: Vec<_> = catalog.tensors().map(|tensor| (tensor.shard, tensor.span)).collect();
        tensors.sort_by_key(|(_, span)| span.start);
        let bundles = tensors.chunks_exact(bundle_bytes / TENSOR_BYTES);
        let bundles: Vec<_> = bundles.map(|tensors| Arc::new(BundleLayout::new(tensors))).collect();
        let slot_bytes = bundles.iter().map(|bundle| bundle.slot_bytes()).max().unwrap();
        let n_slots = (SLOTS_BYTES / bundle_bytes).min(N_SLOTS_MAX);
        let pool = SlotPool::new(&Budget::new(1 << 30), slot_bytes, n_slots).unwrap();
        let reader = Reader::new(catalog.shards().to_vec(), ReaderConfig::default()).unwrap();
        Self { n_read: bundles.len(), bundles, pool, reader }
    }

    /// Reads the next `n` bundles, and returns the time without `on_new_pass`, which runs before each pass over the
    /// file.
    fn read(&mut self, n: u64, mut on_new_pass: impl FnMut()) -> Duration {
        let (mut time, mut n_left) = (Duration::ZERO, n as usize);
        while n_left > 0 {
            if self.n_read == self.bundles.len() {
                on_new_pass();
                self.n_read = 0;
            }
            let n_next = n_left.min(self.bundles.len() - self.n_read);
            let started = Instant::now();
            self.stream(&self.bundles[self.n_read..][..n_next]);
            time += started.elapsed();
            self.n_read += n_next;
            n_left -= n_next;
        }
        time
    }

    fn stream(&self, bundles: &[Arc<BundleLayout>]) {
        let mut tickets = VecDeque::with_capacity(self.pool.n_slots());
        for bundle in bundles {
            let slot = self.pool.try_acquire().unwrap_or_else(|| {
                let first: Ticket = tickets.pop_front().expect("all slots are out");
                first.wait().unwrap()
            });
            tickets.push_back(self.reader.submit(bundle, slot));
        }
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    shard_read(&mut criterion);
    criterion.final_summary();
}
