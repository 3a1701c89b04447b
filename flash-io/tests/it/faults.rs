//! Tests with faults at every read: a read is retried, or fails with evidence, and never returns a wrong byte or hangs.

use std::sync::Arc;
use std::time::Duration;

use flash_io::faults::{Fault, FaultyStorage, When};
use flash_io::{
    Budget, BundleLayout, Catalog, IoError, IoMode, Reader, ReaderConfig, Shard, ShardIdx, SlotPool, Span,
    Stats, open,
};

use crate::support::{disk_dir, modes_in, noise, u8_file, write};

const MAX_RETRIES: u32 = 3;
const CHUNK_BYTES: usize = 8192;

struct Outcome {
    result: Result<Vec<u8>, IoError>,
    stats: Stats,
    reads: u64,
}

/// Spans to read: within one chunk, over several chunks, and up to the end of the file.
fn spans(file_bytes: u64) -> Vec<(ShardIdx, Span)> {
    let spans = [Span::new(5_000, 5_100), Span::new(20_001, 60_000), Span::new(80_000, file_bytes)];
    spans.map(|span| (ShardIdx(0), span)).to_vec()
}

/// Reads one bundle of a 100 kB file under a fault; the slot must come back whatever happens.
fn read_under(mode: IoMode, fault: Fault, when: When) -> Outcome {
    let dir = disk_dir();
    let bytes = noise(100_000, 1);
    let path = write(dir.path(), "x.safetensors", &bytes);
    let storage = Arc::new(FaultyStorage::new(open(&path, mode).unwrap(), fault, when));
    let shard = Shard::new(path, Arc::clone(&storage) as _);
    let config = ReaderConfig {
        depth: 2,
        chunk_bytes: CHUNK_BYTES,
        max_retries: MAX_RETRIES,
        retry_backoff: Duration::from_micros(10),
        ..ReaderConfig::default()
    };
    let tensors = spans(bytes.len() as u64);
    let bundle = Arc::new(BundleLayout::new(&tensors));
    let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
    let reader = Reader::new(vec![shard], config).unwrap();
    let result = reader.submit(&bundle, pool.try_acquire().unwrap()).wait().map(|slot| {
        let tensors = tensors.iter().enumerate();
        tensors
            .flat_map(|(i, (_, span))| slot[bundle.tensor_offset(i)..][..span.len_bytes() as usize].to_vec())
            .collect()
    });
    assert_eq!(pool.free_slots(), 1, "the slot is free when the wait returns");
    Outcome { result, stats: reader.stats(), reads: storage.reads() }
}

fn wanted() -> Vec<u8> {
    let bytes = noise(100_000, 1);
    spans(100_000)
        .iter()
        .flat_map(|(_, span)| bytes[span.start as usize..span.end as usize].to_vec())
        .collect()
}

/// Returns the number of reads of a run without faults.
fn reads_without_fault(mode: IoMode) -> u64 {
    let outcome = read_under(mode, Fault::Eio, When::From(u64::MAX));
    assert_eq!(outcome.result.unwrap(), wanted());
    assert_eq!((outcome.stats.retries, outcome.stats.failures), (0, 0));
    outcome.reads
}

fn for_every_read(mut body: impl FnMut(IoMode, u64)) {
    for mode in modes_in(disk_dir().path()) {
        for read_idx in 0..reads_without_fault(mode) {
            body(mode, read_idx);
        }
    }
}

#[test]
fn one_transient_fault_at_any_read_is_retried_and_changes_no_byte() {
    for_every_read(|mode, read_idx| {
        for fault in [
            Fault::Eio,
            Fault::NoMemory,
            Fault::Interrupted,
            Fault::Short,
            Fault::Empty,
            Fault::Truncated { len_bytes: 0 },
        ] {
            let outcome = read_under(mode, fault, When::Nth(read_idx));
            assert_eq!(outcome.result.unwrap(), wanted(), "{mode}, {fault:?} at read {read_idx}");
            let Stats { interrupted, io_errors, short_reads, failures, .. } = outcome.stats;
            // Half of a direct read can contain all wanted bytes, so `Short` may have no effect.
            assert!(
                outcome.stats.retries == 1 || fault == Fault::Short,
                "{mode}, {fault:?}: {:?}",
                outcome.stats
            );
            assert_eq!(interrupted + io_errors + short_reads, outcome.stats.retries);
            assert_eq!(failures, 0);
        }
    });
}

#[test]
fn permanent_fault_fails_after_the_retries_with_its_offset() {
    for_every_read(|mode, read_idx| {
        for fault in [Fault::Eio, Fault::NoMemory, Fault::Interrupted, Fault::Empty] {
            let outcome = read_under(mode, fault, When::From(read_idx));
            let error = outcome.result.unwrap_err();
            let IoError::ReadFailed { path, offset, wanted_bytes, got_bytes, attempts, error } = error else {
                panic!("{error}")
            };
            assert!(path.ends_with("x.safetensors"));
            assert_eq!((got_bytes, attempts), (0, MAX_RETRIES + 1), "{mode}, {fault:?} from read {read_idx}");
            assert!(wanted_bytes > 0 && wanted_bytes <= CHUNK_BYTES as u64 && offset < 100_000);
            assert_eq!(error.is_none(), fault == Fault::Empty);
            assert!(outcome.stats.failures >= 1);
        }
    });
}

#[test]
fn short_reads_with_progress_are_continued_without_limit() {
    for mode in modes_in(disk_dir().path()) {
        // Up to fifty reads of a chunk of 8192 bytes; direct reads resume at a block, and return one block each.
        let at_most =
            Fault::AtMost { bytes: if matches!(mode, IoMode::Uring | IoMode::Direct) { 5000 } else { 170 } };
        let outcome = read_under(mode, at_most, When::From(0));
        assert_eq!(outcome.result.unwrap(), wanted(), "{mode}");
        let Stats { retries, short_reads, failures, .. } = outcome.stats;
        assert_eq!((retries, failures), (short_reads, 0), "{mode}");
        assert!(short_reads > 5, "{mode}: {short_reads}");
    }
}

#[test]
fn permanent_error_is_not_retried() {
    for_every_read(|mode, read_idx| {
        let outcome = read_under(mode, Fault::Denied, When::From(read_idx));
        let error = outcome.result.unwrap_err();
        assert!(matches!(error, IoError::ReadFailed { attempts: 1, error: Some(_), .. }), "{mode}: {error}");
        assert_eq!(outcome.stats.retries, 0);
    });
}

#[test]
fn panic_in_any_read_ends_its_ticket_and_no_thread() {
    for_every_read(|mode, read_idx| {
        let outcome = read_under(mode, Fault::Panic, When::Nth(read_idx));
        assert!(matches!(outcome.result, Err(IoError::ReadPanicked { .. })));
        let outcome = read_under(mode, Fault::Panic, When::From(read_idx));
        assert!(matches!(outcome.result, Err(IoError::ReadPanicked { .. })));
    });
}

#[test]
fn faults_on_every_third_read_change_no_byte() {
    for mode in modes_in(disk_dir().path()) {
        let outcome = read_under(mode, Fault::Interrupted, When::EveryNth(3));
        // Two threads share the count, so one chunk can meet several faults, but hardly as many as it has retries.
        if let Ok(bytes) = outcome.result {
            assert_eq!(bytes, wanted());
            assert!(outcome.stats.retries > 0);
        }
    }
}

#[test]
fn file_that_ends_early_is_reported_with_wanted_and_got() {
    for mode in modes_in(disk_dir().path()) {
        let outcome = read_under(mode, Fault::Truncated { len_bytes: 90_000 }, When::From(0));
        let error = outcome.result.unwrap_err();
        let IoError::ReadFailed { offset, wanted_bytes, got_bytes, error: None, .. } = error else {
            panic!("{error}")
        };
        assert!(got_bytes < wanted_bytes);
        assert_eq!(offset + got_bytes, 90_000.max(offset), "{mode}");
    }
}

#[test]
fn reader_works_on_after_a_bundle_has_failed() {
    let bytes = noise(50_000, 2);
    let dir = disk_dir();
    let path = write(dir.path(), "x.safetensors", &bytes);
    let storage = FaultyStorage::new(open(&path, IoMode::Pread).unwrap(), Fault::Denied, When::Nth(0));
    let reader = Reader::new(vec![Shard::new(path, Arc::new(storage))], ReaderConfig::default()).unwrap();
    let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, 50_000))]));
    let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 1).unwrap();
    assert!(reader.submit(&bundle, pool.try_acquire().unwrap()).wait().is_err());
    let slot = reader.submit(&bundle, pool.try_acquire().unwrap()).wait().unwrap();
    assert_eq!(slot[..50_000], bytes);
}

#[test]
fn small_read_is_retried_like_a_chunk() {
    let dir = disk_dir();
    let bytes = u8_file(&[("a", noise(9_000, 1))]);
    write(dir.path(), "model.safetensors", &bytes);
    for mode in modes_in(dir.path()) {
        let shard = Catalog::open(dir.path(), mode).unwrap().shards()[0].clone();
        let span = Span::new(10, 8_000);
        for fault in [Fault::Eio, Fault::Short, Fault::Empty] {
            let storage = FaultyStorage::new(Arc::clone(&shard.storage), fault, When::Nth(0));
            let faulty = Shard::new(shard.path.clone(), Arc::new(storage));
            let reader = Reader::new(vec![faulty], ReaderConfig::default()).unwrap();
            let mut out = vec![0; 7_990];
            reader.read_exact_at(ShardIdx(0), span, &mut out).unwrap();
            assert_eq!(out, bytes[10..8_000]);
            assert_eq!(reader.stats().retries, 1, "{mode}, {fault:?}");
        }
    }
}
