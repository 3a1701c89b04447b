//! Tests of io_uring: reads that are cancelled or short, and many in flight from one thread.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flash_io::{
    Booking, Budget, BundleLayout, IoError, IoMode, Pace, ReadAt, Reader, ReaderConfig, Shard, ShardIdx,
    SlotPool, Span, open,
};

use crate::support::{Bytes, Until, disk_dir, has_ring, noise, wait_until, write};

const CHUNK_BYTES: usize = 4096;

/// A pipe, whose reads are stuck until the other end is written to.
#[derive(Debug)]
struct Stuck(PipeReader);

impl ReadAt for Stuck {
    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("the ring reads it")
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(CHUNK_BYTES as u64)
    }

    fn alignment(&self) -> usize {
        1
    }

    fn ring_file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

struct Setup {
    reader: Reader,
    writer: PipeWriter,
    bundle: Arc<BundleLayout>,
    pool: SlotPool,
}

/// Creates a reader of one stuck shard, one chunk long.
fn stuck(config: ReaderConfig) -> Setup {
    let (pipe, writer) = io::pipe().unwrap();
    let shard = Shard::new("stuck".into(), Arc::new(Stuck(pipe)));
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, CHUNK_BYTES as u64))]));
    let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
    Setup { reader: Reader::new(vec![shard], config).unwrap(), writer, bundle, pool }
}

#[test]
fn stuck_read_is_cancelled_and_repeated() {
    if !has_ring() {
        return;
    }
    let config = ReaderConfig { read_timeout: Duration::from_millis(20), ..ReaderConfig::default() };
    let Setup { reader, mut writer, bundle, pool } = stuck(config);
    let ticket = reader.submit(&bundle, pool.try_acquire().unwrap());
    wait_until(|| reader.stats().retries > 0);
    let bytes = noise(CHUNK_BYTES, 1);
    writer.write_all(&bytes).unwrap();
    assert_eq!(ticket.wait().unwrap()[..], bytes);
    let stats = reader.stats();
    assert_eq!((stats.io_errors, stats.failures, stats.chunks), (stats.retries, 0, 1));
}

#[test]
fn read_that_stays_stuck_fails_as_timed_out() {
    if !has_ring() {
        return;
    }
    let (read_timeout, retry_backoff) = (Duration::from_millis(5), Duration::from_millis(1));
    let config = ReaderConfig { read_timeout, retry_backoff, max_retries: 2, ..ReaderConfig::default() };
    let Setup { reader, bundle, pool, writer: _writer } = stuck(config);
    let error = reader.submit(&bundle, pool.try_acquire().unwrap()).wait().unwrap_err();
    let IoError::ReadFailed { got_bytes: 0, attempts: 3, error: Some(cause), .. } = error else {
        panic!("{error}")
    };
    assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
    assert_eq!(pool.free_slots(), 1);
    assert_eq!((reader.stats().retries, reader.stats().failures), (2, 1));
}

#[test]
fn ticket_dropped_while_its_read_is_stuck_releases_its_slot_and_the_reader_works_on() {
    if !has_ring() {
        return;
    }
    let config = ReaderConfig { read_timeout: Duration::from_millis(20), ..ReaderConfig::default() };
    let Setup { reader, mut writer, bundle, pool } = stuck(config);
    drop(reader.submit(&bundle, pool.try_acquire().unwrap()));
    wait_until(|| pool.free_slots() == 1);
    assert_eq!(reader.stats().failures, 0);
    let ticket = reader.submit(&bundle, pool.try_acquire().unwrap());
    let bytes = noise(CHUNK_BYTES, 7);
    writer.write_all(&bytes).unwrap();
    assert_eq!(ticket.wait().unwrap()[..], bytes);
}

#[test]
fn stuck_read_does_not_keep_the_reader_from_closing() {
    if !has_ring() {
        return;
    }
    let Setup { reader, bundle, pool, writer: _writer } = stuck(ReaderConfig::default());
    let ticket = reader.submit(&bundle, pool.try_acquire().unwrap());
    thread::sleep(Duration::from_millis(20));
    drop(reader);
    assert!(matches!(ticket.wait(), Err(IoError::ReaderClosed { .. })));
    assert_eq!(pool.free_slots(), 1);
}

#[test]
fn short_reads_of_the_kernel_are_continued() {
    if !has_ring() {
        return;
    }
    let Setup { reader, mut writer, bundle, pool } = stuck(ReaderConfig::default());
    let ticket = reader.submit(&bundle, pool.try_acquire().unwrap());
    let bytes = noise(CHUNK_BYTES, 2);
    writer.write_all(&bytes[..1000]).unwrap();
    wait_until(|| reader.stats().short_reads == 1);
    writer.write_all(&bytes[1000..]).unwrap();
    assert_eq!(ticket.wait().unwrap()[..], bytes);
    assert_eq!(reader.stats().retries, 1);
}

/// Pacer that admits a number of chunks at once, and the rest in an hour.
#[derive(Debug)]
struct LetThrough(AtomicU64);

impl Pace for LetThrough {
    fn book(&self, _: u64) -> Box<dyn Booking> {
        let is_let_through =
            self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let until = if is_let_through.is_ok() { Duration::ZERO } else { Duration::from_secs(3600) };
        Box::new(Until(Instant::now() + until))
    }
}

fn shard_of(bytes: &[u8], mode: IoMode) -> (tempfile::TempDir, Shard) {
    let dir = disk_dir();
    let path = write(dir.path(), "x", bytes);
    (dir, Shard::new(path.clone(), open(&path, mode).unwrap()))
}

#[test]
fn chunk_held_by_the_pacer_delays_no_read_in_flight() {
    if !has_ring() {
        return;
    }
    let bytes = noise(8 * CHUNK_BYTES, 3);
    let (_dir, shard) = shard_of(&bytes, IoMode::Uring);
    let pacer = Some(Arc::new(LetThrough(AtomicU64::new(3))) as Arc<dyn Pace>);
    let reader = Reader::new(
        vec![shard],
        ReaderConfig { chunk_bytes: CHUNK_BYTES, depth: 2, pacer, ..ReaderConfig::default() },
    )
    .unwrap();
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, bytes.len() as u64))]));
    let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
    let ticket = reader.submit(&bundle, pool.try_acquire().unwrap());
    wait_until(|| reader.stats().chunks == 3);
    assert!(!ticket.is_done());
    drop(reader);
    assert!(matches!(ticket.wait(), Err(IoError::ReaderClosed { .. })));
}

/// Pacer that counts the chunks that the reader has started.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Pace for Count {
    fn book(&self, _: u64) -> Box<dyn Booking> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::new(Until(Instant::now()))
    }
}

#[test]
fn twice_the_depth_of_full_chunks_is_in_flight_or_more_shorter_reads() {
    if !has_ring() {
        return;
    }
    // Bytes of a read, and reads that are started before one of them ends.
    for (read_bytes, n_started) in [(CHUNK_BYTES as u64, 4), (CHUNK_BYTES as u64 * 3 / 4, 6), (100, 8)] {
        let count = Arc::new(Count::default());
        let pacer = Some(Arc::clone(&count) as Arc<dyn Pace>);
        let config = ReaderConfig { depth: 2, chunk_bytes: CHUNK_BYTES, pacer, ..ReaderConfig::default() };
        let Setup { reader, writer: _writer, .. } = stuck(config);
        let far_apart = |idx: u64| Span::new(idx << 20, (idx << 20) + read_bytes);
        let bundle = Arc::new(BundleLayout::new(
            &(0..20).map(|idx| (ShardIdx(0), far_apart(idx))).collect::<Vec<_>>(),
        ));
        let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
        let _ticket = reader.submit(&bundle, pool.try_acquire().unwrap());
        wait_until(|| count.0.load(Ordering::SeqCst) == n_started);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(count.0.load(Ordering::SeqCst), n_started, "reads of {read_bytes} B");
    }
}

#[test]
fn many_reads_are_in_flight_from_one_thread() {
    if !has_ring() {
        return;
    }
    let bytes = noise(64 * CHUNK_BYTES, 4);
    let (_dir, shard) = shard_of(&bytes, IoMode::Uring);
    let n_threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("flash-read")).count()
    };
    let before = n_threads();
    let config = ReaderConfig { chunk_bytes: CHUNK_BYTES, depth: 300, ..ReaderConfig::default() };
    let reader = Reader::new(vec![shard], config).unwrap();
    // Readers of concurrent tests have threads too, but far fewer.
    assert!(n_threads() < before + 100);
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, bytes.len() as u64))]));
    let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
    let slot = reader.submit(&bundle, pool.try_acquire().unwrap()).wait().unwrap();
    assert_eq!(slot[..], bytes);
    assert_eq!(reader.stats().chunks, 64);
}

#[test]
fn bundle_spans_shards_with_and_without_a_ring() {
    if !has_ring() {
        return;
    }
    let bytes = noise(3 * CHUNK_BYTES, 5);
    let (_dir, on_disk) = shard_of(&bytes, IoMode::Uring);
    let in_memory = Shard::new("memory".into(), Arc::new(Bytes(bytes.clone())));
    let reader = Reader::new(vec![in_memory, on_disk], ReaderConfig::default()).unwrap();
    let span = Span::new(0, bytes.len() as u64);
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), span), (ShardIdx(1), span)]));
    let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
    let slot = reader.submit(&bundle, pool.try_acquire().unwrap()).wait().unwrap();
    for i in 0..2 {
        assert_eq!(slot[bundle.tensor_offset(i)..][..bytes.len()], bytes);
    }
}

#[test]
fn file_that_cannot_be_read_at_an_offset_is_an_error_of_its_bundle() {
    if !has_ring() {
        return;
    }
    #[derive(Debug)]
    struct Folder(File);
    impl ReadAt for Folder {
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
            unreachable!("the ring reads it")
        }
        fn len_bytes(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn alignment(&self) -> usize {
            1
        }
        fn ring_file(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }
    }
    let dir = disk_dir();
    let storage = Arc::new(Folder(File::open(dir.path()).unwrap()));
    let reader = Reader::new(vec![Shard::new("folder".into(), storage)], ReaderConfig::default()).unwrap();
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, 1))]));
    let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
    let error = reader.submit(&bundle, pool.try_acquire().unwrap()).wait().unwrap_err();
    assert!(matches!(error, IoError::ReadFailed { attempts: 1, error: Some(_), .. }), "{error}");
}

/// Storage that panics in `alignment` on the ring's thread, which does not catch that panic.
#[derive(Debug)]
struct PanicsInAlignment {
    inner: Arc<dyn ReadAt>,
    n_calls: AtomicU64,
    panics_at: u64,
}

impl ReadAt for PanicsInAlignment {
    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("the ring reads it")
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn alignment(&self) -> usize {
        if thread::current().name() == Some("flash-ring") {
            assert!(self.n_calls.fetch_add(1, Ordering::SeqCst) != self.panics_at, "an injected panic");
        }
        self.inner.alignment()
    }

    fn ring_file(&self) -> Option<BorrowedFd<'_>> {
        self.inner.ring_file()
    }
}

#[test]
fn bundles_of_a_dead_ring_thread_end_as_closed_and_release_their_slots() {
    if !has_ring() {
        return;
    }
    const N_CHUNKS: u64 = 8;
    let bytes = noise(N_CHUNKS as usize * (128 << 10), 6);
    let (_dir, shard) = shard_of(&bytes, IoMode::Uring);
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, bytes.len() as u64))]));
    for panics_at in 0..N_CHUNKS {
        let storage = Arc::new(PanicsInAlignment {
            inner: Arc::clone(&shard.storage),
            n_calls: AtomicU64::new(0),
            panics_at,
        });
        let dying = Shard::new(shard.path.clone(), storage);
        let reader = Reader::new(vec![dying], ReaderConfig::default()).unwrap();
        let pool = SlotPool::new(&Budget::new(4 << 20), bundle.slot_bytes(), 1).unwrap();
        for _ in 0..3 {
            let outcome = reader.submit(&bundle, pool.try_acquire().unwrap()).wait();
            assert!(matches!(outcome, Err(IoError::ReaderClosed { .. })), "chunk {panics_at}: {outcome:?}");
        }
        assert_eq!(pool.free_slots(), 1);
    }
}
