//! `shard_read/<mode>_cold/<size>`, and `shard_read/<mode>_warm/<size>` of the modes that read through the page cache: bundles
//! of that size, submitted to a reader and waited for, in the order of the file, as weights are streamed. While one is waited
//! for, others are queued, so that the disk has up to [`ReaderConfig::depth`] reads at once; an iteration is one bundle.
//! Bundles begin where tensors do, not at blocks.
//!
//! `cold`: no byte of the file is in the page cache when the first bundle is submitted, and none is read twice before the
//! cache is emptied again, outside of the time. What the kernel reads ahead of `pread` and of a map counts for them.
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

/// Bytes of the file: many times what a device holds in its own cache for a short while, and soon written.
const FILE_BYTES: usize = 256 << 20;
const TENSOR_BYTES: usize = 64 << 10;
const SIZES: [(&str, usize); 3] = [("64KiB", 64 << 10), ("1MiB", 1 << 20), ("16MiB", 16 << 20)];

/// Bytes of all slots: with small bundles the queue is full, and with large ones one is read while another is waited for.
const SLOTS_BYTES: usize = 32 << 20;
const N_SLOTS_MAX: usize = 32;

#[expect(clippy::print_stderr, reason = "a skipped bench says so")]
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

/// The file, in a folder of its own below the target folder. It stays there for the next run.
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

/// The bundles of a file, read over and over.
struct Stream {
    bundles: Vec<Arc<BundleLayout>>,
    /// How many of them were read since the file was begun; all, to begin it anew.
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

    /// How long the next `n` bundles take, without what is done each time that the file begins anew.
    fn read(&mut self, n: u64, mut begin_anew: impl FnMut()) -> Duration {
        let (mut time, mut n_left) = (Duration::ZERO, n as usize);
        while n_left > 0 {
            if self.n_read == self.bundles.len() {
                begin_anew();
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
