//! Tests of the reader in every mode: bytes, order, cancellation, closing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flash_io::{
    Booking, Budget, BundleLayout, Catalog, IoError, IoMode, Pace, Reader, ReaderConfig, Shard, ShardIdx,
    Slot, SlotPool, Span, Tensor, open,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{Until, disk_dir, expected, modes_in, noise, shared, u8_file, wait_until, write};

/// Creates a model with tensors of odd sizes: empty, below a block, around a block, over several chunks.
fn model() -> TempDir {
    let dir = disk_dir();
    let shard = |seed: u64, lens: &[usize]| {
        let named: Vec<_> = lens
            .iter()
            .enumerate()
            .map(|(i, &len)| (format!("s{seed}.t{i}"), noise(len, seed * 100 + i as u64)))
            .collect();
        u8_file(&named.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>())
    };
    write(dir.path(), "1.safetensors", shard(1, &[1, 4095, 0, 70_001, 4096, 13, 30_000, 9_000]));
    write(dir.path(), "2.safetensors", shard(2, &[300_000, 1, 8191, 25_000]));
    dir
}

fn layout_of(tensors: &[&Tensor]) -> Arc<BundleLayout> {
    let spans: Vec<_> = tensors.iter().map(|tensor| (tensor.shard, tensor.span)).collect();
    Arc::new(BundleLayout::new(&spans))
}

fn big_budget() -> Budget {
    Budget::new(1 << 30)
}

#[test]
fn all_modes_give_the_same_bytes() {
    let dir = model();
    for mode in modes_in(dir.path()) {
        let catalog = Catalog::open(dir.path(), mode).unwrap();
        let tensors: Vec<_> = catalog.tensors().collect();
        let bundle = layout_of(&tensors);
        let reader = Reader::new(catalog.shards().to_vec(), ReaderConfig::default()).unwrap();
        let slot = Slot::unpooled(&big_budget(), bundle.slot_bytes()).unwrap();
        let slot = reader.submit(&bundle, slot).wait().unwrap();
        for (i, tensor) in tensors.iter().enumerate() {
            let wanted = expected(&catalog, &tensor.name);
            assert_eq!(slot[bundle.tensor_offset(i)..][..wanted.len()], wanted, "{mode}: {}", tensor.name);
        }
        let stats = reader.stats();
        assert!(stats.bytes >= bundle.wanted_bytes() && stats.bytes <= bundle.slot_bytes() as u64);
        assert_eq!((stats.retries, stats.failures), (0, 0));
        assert!(!stats.busy.is_zero());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn bytes_depend_on_no_setting(
        mode in prop::sample::select(IoMode::ALL.to_vec()),
        depth in 1usize..6,
        chunk_bytes in 1usize..40_000,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..9),
    ) {
        let dir = model();
        prop_assume!(modes_in(dir.path()).contains(&mode));
        let catalog = Catalog::open(dir.path(), mode).unwrap();
        let all: Vec<_> = catalog.tensors().collect();
        let tensors: Vec<_> = picks.iter().map(|pick| *pick.get(&all)).collect();
        let bundle = layout_of(&tensors);
        let config = ReaderConfig { depth, chunk_bytes, ..ReaderConfig::default() };
        let reader = Reader::new(catalog.shards().to_vec(), config).unwrap();
        let slot = Slot::unpooled(&big_budget(), bundle.slot_bytes() + 5).unwrap();
        let slot = reader.submit(&bundle, slot).wait().unwrap();
        for (i, tensor) in tensors.iter().enumerate() {
            let wanted = expected(&catalog, &tensor.name);
            prop_assert_eq!(&slot[bundle.tensor_offset(i)..][..wanted.len()], &wanted);
        }
    }

    #[test]
    fn small_reads_give_any_span(start in 0u64..330_000, len in 0u64..20_000, chunk_bytes in 1usize..9_000) {
        let dir = model();
        let path = dir.path().join("2.safetensors");
        let file = std::fs::read(&path).unwrap();
        let span = Span::new(start, start + len).intersection(&Span::new(0, file.len() as u64));
        for mode in modes_in(dir.path()) {
            let shard = Shard::open(path.clone(), mode).unwrap();
            let config = ReaderConfig { depth: 1, chunk_bytes, ..ReaderConfig::default() };
            let reader = Reader::new(vec![shard], config).unwrap();
            let mut out = vec![0; span.len_bytes() as usize];
            reader.read_exact_at(ShardIdx(0), span, &mut out).unwrap();
            prop_assert_eq!(&out, &file[span.start as usize..span.end as usize]);
        }
    }
}

#[test]
fn small_read_past_the_end_is_a_short_read() {
    let dir = model();
    let path = dir.path().join("2.safetensors");
    let len_bytes = std::fs::metadata(&path).unwrap().len();
    for mode in modes_in(dir.path()) {
        let config = ReaderConfig { retry_backoff: Duration::ZERO, ..ReaderConfig::default() };
        let reader = Reader::new(vec![Shard::open(path.clone(), mode).unwrap()], config).unwrap();
        let error = reader
            .read_exact_at(ShardIdx(0), Span::new(len_bytes - 3, len_bytes + 1), &mut [0; 4])
            .unwrap_err();
        // One call that returned the bytes before the end, and five that returned none.
        let IoError::ReadFailed { wanted_bytes, got_bytes, attempts: 6, error: None, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(wanted_bytes - got_bytes, 1);
    }
}

#[test]
fn shard_truncated_while_open_is_a_short_read_in_every_mode() {
    for mode in modes_in(disk_dir().path()) {
        let dir = disk_dir();
        let path = write(dir.path(), "x.safetensors", noise(100_000, 1));
        let shard = Shard::open(path.clone(), mode).unwrap();
        let config = ReaderConfig { retry_backoff: Duration::ZERO, ..ReaderConfig::default() };
        let reader = Reader::new(vec![shard], config).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(50_000).unwrap();

        let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, 100_000))]));
        let slot = Slot::unpooled(&big_budget(), bundle.slot_bytes()).unwrap();
        let error = reader.submit(&bundle, slot).wait().unwrap_err();
        let IoError::ReadFailed {
            path: named, wanted_bytes: 100_000, got_bytes: 50_000, error: None, ..
        } = error
        else {
            panic!("{mode}: {error}")
        };
        assert_eq!(named, path);
    }
}

#[test]
fn shard_written_to_while_open_is_refused_and_read_no_more() {
    for mode in modes_in(disk_dir().path()) {
        let dir = disk_dir();
        let path = write(dir.path(), "x.safetensors", noise(100_000, 1));
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let shard = Shard::open(path.clone(), mode).unwrap();
        let beside = Shard::new(path.clone(), open(&path, mode).unwrap());
        let reader = Reader::new(vec![shard, beside], ReaderConfig::default()).unwrap();
        let pool = SlotPool::new(&big_budget(), 104_000, 1).unwrap();
        let read = |shard| {
            let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(shard), Span::new(0, 100_000))]));
            reader.submit(&bundle, pool.try_acquire().unwrap()).wait().map(drop)
        };
        let read_row = |shard| reader.read_exact_at(ShardIdx(shard), Span::new(10, 14), &mut [0; 4]);
        read(0).unwrap();
        read_row(0).unwrap();
        // Identical bytes, as another program would restore them; the pause is for the coarse clocks of file systems.
        let later = std::time::SystemTime::now() + Duration::from_secs(1);
        file.set_modified(later).unwrap();
        for error in [read(0).unwrap_err(), read_row(0).unwrap_err()] {
            assert!(matches!(&error, IoError::Changed { path: named } if *named == path), "{mode}: {error}");
        }
        // A shard that may be written to is not checked.
        read(1).unwrap();
        read_row(1).unwrap();
        assert_eq!(pool.free_slots(), 1);
    }
}

#[test]
fn unaligned_direct_read_is_invalid_input() {
    let dir = disk_dir();
    if !modes_in(dir.path()).contains(&IoMode::Direct) {
        return;
    }
    let path = write(dir.path(), "x", [1; 10_000]);
    let storage = open(&path, IoMode::Direct).unwrap();
    let mut slot = Slot::unpooled(&big_budget(), 8192).unwrap();
    for (offset, range) in [(1, 0..4096), (0, 0..4095), (0, 1..4097)] {
        let error = storage.read_at(offset, &mut slot[range]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
    assert_eq!(storage.read_at(8192, &mut slot[..4096]).unwrap(), 10_000 - 8192);
    assert_eq!(storage.read_at(12288, &mut slot[..4096]).unwrap(), 0);
}

#[test]
fn direct_reads_are_refused_by_name_where_the_file_system_has_none() {
    let Ok(storage) = open(std::path::Path::new("/proc/self/status"), IoMode::Direct) else { return };
    panic!("the process file system made direct reads: {storage:?}");
}

/// Pacer that holds every chunk for a fixed time.
#[derive(Debug)]
struct Slow {
    pause: Duration,
    admitted_bytes: AtomicU64,
}

impl Slow {
    fn new(pause: Duration) -> Arc<Self> {
        Arc::new(Self { pause, admitted_bytes: AtomicU64::new(0) })
    }
}

impl Pace for Slow {
    fn book(&self, bytes: u64) -> Box<dyn Booking> {
        self.admitted_bytes.fetch_add(bytes, Ordering::SeqCst);
        Box::new(Until(Instant::now() + self.pause))
    }
}

/// Creates a single-threaded reader, paced by `pacer`, of one shard in memory, 64 chunks long.
fn slow_reader(pacer: &Arc<Slow>) -> (Reader, Arc<BundleLayout>) {
    let shard = Shard::new("memory".into(), shared(noise(64 * 4096, 3)));
    let pacer: Arc<dyn Pace> = Arc::clone(pacer) as _;
    let config = ReaderConfig { depth: 1, chunk_bytes: 4096, pacer: Some(pacer), ..ReaderConfig::default() };
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, 64 * 4096))]));
    (Reader::new(vec![shard], config).unwrap(), bundle)
}

#[test]
fn pacer_is_asked_for_every_chunk_and_obeyed() {
    let pacer = Slow::new(Duration::from_millis(1));
    let (reader, bundle) = slow_reader(&pacer);
    let started = Instant::now();
    let slot = Slot::unpooled(&big_budget(), bundle.slot_bytes()).unwrap();
    reader.submit(&bundle, slot).wait().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(64));
    assert_eq!(pacer.admitted_bytes.load(Ordering::SeqCst), 64 * 4096);
    assert!(reader.stats().paced >= Duration::from_millis(64));
    assert_eq!(reader.stats().chunks, 64);
}

/// Pacer that holds all chunks until it is opened.
#[derive(Debug, Default)]
struct Closed(Arc<AtomicBool>);

impl Pace for Closed {
    fn book(&self, _: u64) -> Box<dyn Booking> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl Booking for Closed {
    fn pause(&self) -> Duration {
        if self.0.load(Ordering::SeqCst) { Duration::ZERO } else { Duration::from_secs(3600) }
    }
}

#[test]
fn held_chunk_is_read_soon_after_the_pacer_admits_it() {
    let bytes = noise(100_000, 5);
    let dir = disk_dir();
    let path = write(dir.path(), "x", &bytes);
    for mode in modes_in(dir.path()) {
        let is_open = Arc::new(AtomicBool::new(false));
        let pacer = Some(Arc::new(Closed(Arc::clone(&is_open))) as Arc<dyn Pace>);
        let shard = Shard::new(path.clone(), open(&path, mode).unwrap());
        let reader = Reader::new(vec![shard], ReaderConfig { pacer, ..ReaderConfig::default() }).unwrap();
        let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, bytes.len() as u64))]));
        let slot = Slot::unpooled(&big_budget(), bundle.slot_bytes()).unwrap();
        let ticket = reader.submit(&bundle, slot);
        thread::sleep(Duration::from_millis(20));
        assert!(!ticket.is_done(), "{mode}");
        is_open.store(true, Ordering::SeqCst);
        assert_eq!(ticket.wait().unwrap()[..bytes.len()], bytes, "{mode}");
        assert!(reader.stats().paced >= Duration::from_millis(20), "{mode}");
    }
}

#[test]
fn dropped_ticket_cancels_its_reads_and_releases_its_slot() {
    let pacer = Slow::new(Duration::from_millis(20));
    let (reader, bundle) = slow_reader(&pacer);
    let pool = SlotPool::new(&big_budget(), bundle.slot_bytes(), 1).unwrap();
    let ticket = reader.submit(&bundle, pool.try_acquire().unwrap());
    assert!(!ticket.is_done());
    drop(ticket);
    wait_until(|| pool.free_slots() == 1);
    assert!(reader.stats().chunks < 64);
    assert_eq!(reader.stats().failures, 0);
}

#[test]
fn dropped_reader_ends_its_tickets_with_an_error() {
    let pacer = Slow::new(Duration::from_secs(3600));
    let (reader, bundle) = slow_reader(&pacer);
    let pool = SlotPool::new(&big_budget(), bundle.slot_bytes(), 2).unwrap();
    let first = reader.submit(&bundle, pool.try_acquire().unwrap());
    let second = reader.submit(&bundle, pool.try_acquire().unwrap());
    let waiter = thread::spawn(move || first.wait());
    thread::sleep(Duration::from_millis(20));
    drop(reader);
    for outcome in [waiter.join().unwrap(), second.wait()] {
        assert!(matches!(outcome, Err(IoError::ReaderClosed { .. })), "{outcome:?}");
    }
    assert_eq!(pool.free_slots(), 2);
}

#[test]
fn ticket_that_is_done_outlives_its_reader() {
    let (reader, bundle) = slow_reader(&Slow::new(Duration::ZERO));
    let ticket = reader.submit(&bundle, Slot::unpooled(&big_budget(), bundle.slot_bytes()).unwrap());
    wait_until(|| ticket.is_done());
    drop(reader);
    assert_eq!(ticket.wait().unwrap()[..], noise(64 * 4096, 3));
}

#[test]
fn bundle_without_bytes_is_done_at_once() {
    let (reader, _) = slow_reader(&Slow::new(Duration::ZERO));
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(5, 5))]));
    let ticket = reader.submit(&bundle, Slot::unpooled(&big_budget(), 0).unwrap());
    assert!(ticket.is_done());
    assert!(ticket.wait().unwrap().is_empty());
}

#[test]
fn bundles_are_read_in_the_order_of_submission() {
    let (reader, bundle) = slow_reader(&Slow::new(Duration::from_micros(200)));
    let budget = big_budget();
    let tickets: Vec<_> = (0..4)
        .map(|_| reader.submit(&bundle, Slot::unpooled(&budget, bundle.slot_bytes()).unwrap()))
        .collect();
    wait_until(|| {
        let done: Vec<_> = tickets.iter().rev().map(flash_io::Ticket::is_done).collect();
        assert!(done.is_sorted(), "a later bundle was done first: {done:?}");
        done[0]
    });
}

#[test]
fn small_bundle_is_cut_to_fill_the_queue_and_read_at_once_behind_others() {
    const BYTES: usize = 512 << 10;
    let storage = shared(noise(BYTES, 5));
    let config = ReaderConfig { depth: 4, chunk_bytes: 1 << 20, ..ReaderConfig::default() };
    let reader = Reader::new(vec![Shard::new("shard".into(), storage)], config).unwrap();
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, BYTES as u64))]));
    let chunks_behind = |waiting_bytes| {
        let before = reader.stats().chunks;
        let slot = Slot::unpooled(&big_budget(), BYTES).unwrap();
        reader.submit_with_backlog(waiting_bytes, &bundle, slot).wait().unwrap();
        reader.stats().chunks - before
    };
    assert_eq!(chunks_behind(0), 4);
    assert_eq!(chunks_behind(BYTES as u64), 2);
    assert_eq!(chunks_behind(4 << 20), 1);
    assert_eq!(chunks_behind(u64::MAX), 1);
}

#[test]
#[should_panic(expected = "a bundle fits its slot")]
fn slot_that_is_too_small_is_a_bug_of_the_caller() {
    let (reader, bundle) = slow_reader(&Slow::new(Duration::ZERO));
    drop(reader.submit(&bundle, Slot::unpooled(&big_budget(), bundle.slot_bytes() - 1).unwrap()));
}

#[cfg(target_os = "linux")]
#[test]
fn mapped_pages_do_not_stay_in_the_resident_set() {
    const BYTES: usize = 64 << 20;
    /// Resident memory of the maps of one file, which other tests do not change.
    fn resident_kib(file: &std::path::Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(maps.contains(file.to_str().unwrap()), "the file is mapped");
        let mut is_file = false;
        let mut resident_kib = 0;
        for line in maps.lines() {
            let first = line.split_whitespace().next().unwrap_or_default();
            // A map begins with a line of its addresses, which ends with the path of its file.
            if first.contains('-') {
                is_file = line.ends_with(file.to_str().unwrap());
            } else if is_file && first == "Rss:" {
                let rss = line.split_whitespace().nth(1).unwrap();
                resident_kib += rss.parse::<u64>().unwrap();
            }
        }
        resident_kib
    }
    let dir = disk_dir();
    let file = write(dir.path(), "x", vec![7; BYTES]);
    let storage = open(&file, IoMode::Mmap).unwrap();
    let mut out = vec![0; BYTES];
    assert_eq!(storage.read_at(0, &mut out).unwrap(), BYTES);
    let resident_kib = resident_kib(&file);
    assert!(resident_kib < BYTES as u64 / 1024 / 4, "{resident_kib} KiB of the map are resident");
}
