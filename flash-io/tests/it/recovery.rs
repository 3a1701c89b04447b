//! Tests of recovery: after storage fails, panics or is stuck, or a bundle is cancelled, every bundle has right bytes
//! or a typed error, every slot is free again, and the reader keeps working.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use flash_io::faults::{Fault, FaultyStorage, When};
use flash_io::{
    Booking, Budget, BundleLayout, IoError, IoMode, Pace, ReadAt, Reader, ReaderConfig, Shard, ShardIdx,
    SlotPool, Span, Ticket, open,
};
use tempfile::TempDir;

use crate::support::{Until, disk_dir, modes_in, noise, wait_until, write};

const FILE_BYTES: usize = 100_000;
const CHUNK_BYTES: usize = 8192;
const N_SLOTS: usize = 3;
const N_ROUNDS: usize = 4;
/// Maximum interval of faults: from every read to about one in a bundle.
const EVERY_NTH_MAX: u64 = 13;

/// Spans of a bundle: within one chunk, over several chunks, and up to the end of the file.
const TENSORS: [Span; 3] =
    [Span::new(5_000, 5_100), Span::new(20_001, 60_000), Span::new(80_000, FILE_BYTES as u64)];

/// A file on disk, opened in one mode.
struct OnDisk {
    _dir: TempDir,
    bytes: Vec<u8>,
    shard: Shard,
}

fn on_disk(mode: IoMode) -> OnDisk {
    let (dir, bytes) = (disk_dir(), noise(FILE_BYTES, 1));
    let path = write(dir.path(), "x.safetensors", &bytes);
    let shard = Shard::new(path.clone(), open(&path, mode).unwrap());
    OnDisk { _dir: dir, bytes, shard }
}

/// A reader of one shard, and slots for its bundle.
struct Session {
    reader: Reader,
    bundle: Arc<BundleLayout>,
    pool: SlotPool,
    bytes: Vec<u8>,
}

impl Session {
    fn new(on_disk: &OnDisk, storage: Arc<dyn ReadAt>, config: ReaderConfig) -> Self {
        let bundle = Arc::new(BundleLayout::new(&TENSORS.map(|span| (ShardIdx(0), span))));
        let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), N_SLOTS).unwrap();
        let shard = Shard::new(on_disk.shard.path.clone(), storage);
        let reader = Reader::new(vec![shard], config).unwrap();
        Self { reader, bundle, pool, bytes: on_disk.bytes.clone() }
    }

    fn submit(&self) -> Ticket {
        self.reader.submit(&self.bundle, self.pool.try_acquire().expect("a slot is free"))
    }

    /// Reads a bundle into each slot, and checks its bytes; `refuse` checks the errors.
    fn round(&self, mut refuse: impl FnMut(IoError)) {
        let tickets = [(); N_SLOTS].map(|()| self.submit());
        for ticket in tickets {
            match ticket.wait() {
                Ok(slot) => {
                    for (i, span) in TENSORS.iter().enumerate() {
                        let wanted = &self.bytes[span.start as usize..span.end as usize];
                        assert_eq!(&slot[self.bundle.tensor_offset(i)..][..wanted.len()], wanted);
                    }
                }
                Err(error) => refuse(error),
            }
        }
        assert_eq!(self.pool.free_slots(), N_SLOTS);
    }

    /// Reads a round without errors.
    fn works(&self) {
        self.round(|error| panic!("{error}"));
    }
}

fn config() -> ReaderConfig {
    let retry_backoff = Duration::from_micros(10);
    ReaderConfig { depth: 2, chunk_bytes: CHUNK_BYTES, retry_backoff, ..ReaderConfig::default() }
}

/// Storage that calls `watch` with the index of each read, before the read, or after it with io_uring.
struct Watched<F> {
    inner: Arc<dyn ReadAt>,
    reads: AtomicU64,
    watch: F,
}

impl<F: Fn(u64) + Send + Sync> Watched<F> {
    fn new(inner: &Arc<dyn ReadAt>, watch: F) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), reads: AtomicU64::new(0), watch })
    }

    fn notify(&self) {
        (self.watch)(self.reads.fetch_add(1, Ordering::SeqCst));
    }
}

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.inner).finish()
    }
}

impl<F: Fn(u64) + Send + Sync> ReadAt for Watched<F> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.notify();
        self.inner.read_at(offset, buf)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn ring_file(&self) -> Option<BorrowedFd<'_>> {
        self.inner.ring_file()
    }

    fn ring_outcome(&self, _offset: u64, outcome: io::Result<usize>) -> io::Result<usize> {
        self.notify();
        outcome
    }
}

/// Reads with a fault at every nth read, for each n, in each mode; then without faults.
fn read_on_under(fault: Fault, config: &ReaderConfig, refuse: impl Fn(IoError, u64)) {
    for mode in modes_in(disk_dir().path()) {
        let on_disk = on_disk(mode);
        for n in 1..=EVERY_NTH_MAX {
            let storage = FaultyStorage::new(Arc::clone(&on_disk.shard.storage), fault, When::EveryNth(n));
            let storage = Arc::new(storage);
            let session = Session::new(&on_disk, Arc::clone(&storage) as _, config.clone());
            for _ in 0..N_ROUNDS {
                session.round(|error| refuse(error, n));
            }
            storage.heal();
            session.works();
        }
    }
}

#[test]
fn eio_at_every_nth_read_gives_right_bytes_or_an_error_and_the_reader_works_on() {
    for max_retries in [0, 1, 3] {
        let n_refused = AtomicU64::new(0);
        read_on_under(Fault::Eio, &ReaderConfig { max_retries, ..config() }, |error, n| {
            n_refused.fetch_add(1, Ordering::SeqCst);
            let IoError::ReadFailed { attempts, error: Some(cause), .. } = error else {
                panic!("every {n}th: {error}")
            };
            assert_eq!(attempts, max_retries + 1);
            assert_eq!(cause.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        });
        let at_every_read = modes_in(disk_dir().path()).len() * N_ROUNDS * N_SLOTS;
        assert!(n_refused.into_inner() >= at_every_read as u64, "none of those can succeed");
    }
}

#[test]
fn panic_at_every_nth_read_gives_right_bytes_or_an_error_and_the_reader_works_on() {
    read_on_under(Fault::Panic, &config(), |error, n| {
        assert!(matches!(error, IoError::ReadPanicked { .. }), "every {n}th: {error}");
    });
}

#[test]
fn small_reads_under_eio_at_every_nth_are_right_or_an_error() {
    let config = ReaderConfig { max_retries: 1, ..config() };
    for mode in modes_in(disk_dir().path()) {
        let on_disk = on_disk(mode);
        for n in 1..=EVERY_NTH_MAX {
            let storage =
                FaultyStorage::new(Arc::clone(&on_disk.shard.storage), Fault::Eio, When::EveryNth(n));
            let session = Session::new(&on_disk, Arc::new(storage), config.clone());
            let [_, span, _] = TENSORS;
            let mut out = vec![0; span.len_bytes() as usize];
            for _ in 0..N_ROUNDS {
                match session.reader.read_exact_at(ShardIdx(0), span, &mut out) {
                    Ok(()) => assert!(n > 1 && out == session.bytes[span.start as usize..span.end as usize]),
                    // No other read shares the count, so for n > 1 the retry of a failed read succeeds.
                    Err(error) => assert!(n == 1, "{mode}, every {n}th: {error}"),
                }
            }
        }
    }
}

#[test]
fn ticket_dropped_while_its_read_fails_is_not_read_again() {
    for mode in modes_in(disk_dir().path()) {
        let on_disk = on_disk(mode);
        let storage = FaultyStorage::new(Arc::clone(&on_disk.shard.storage), Fault::Eio, When::From(0));
        let storage = Arc::new(storage);
        let config = ReaderConfig { max_retries: u32::MAX, ..config() };
        let session = Session::new(&on_disk, Arc::clone(&storage) as _, config);
        let failing = session.submit();
        wait_until(|| storage.reads() > 2);
        drop(failing);
        wait_until(|| session.pool.free_slots() == N_SLOTS);
        storage.heal();
        session.works();
    }
}

/// Pacer that calls a closure with the index of each chunk, and admits all of them.
struct Watching<F>(AtomicU64, F);

impl<F> fmt::Debug for Watching<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watching")
    }
}

impl<F: Fn(u64) + Send + Sync> Pace for Watching<F> {
    fn book(&self, _: u64) -> Box<dyn Booking> {
        (self.1)(self.0.fetch_add(1, Ordering::SeqCst));
        Box::new(Until(Instant::now()))
    }
}

fn paced_by(watch: impl Fn(u64) + Send + Sync + 'static) -> ReaderConfig {
    ReaderConfig { pacer: Some(Arc::new(Watching(AtomicU64::new(0), watch))), ..config() }
}

/// Returns the number of reads of a bundle in the mode of the file.
fn n_reads(on_disk: &OnDisk) -> u64 {
    let storage = Watched::new(&on_disk.shard.storage, |_| ());
    let session = Session::new(on_disk, Arc::clone(&storage) as _, config());
    assert!(session.submit().wait().is_ok());
    storage.reads.load(Ordering::SeqCst)
}

#[test]
fn pacer_that_panics_at_any_chunk_ends_its_bundle_and_the_reader_works_on() {
    for mode in modes_in(disk_dir().path()) {
        let on_disk = on_disk(mode);
        for nth in 0..n_reads(&on_disk) {
            let config = paced_by(move |chunk_idx| assert!(chunk_idx != nth, "an injected panic"));
            let session = Session::new(&on_disk, Arc::clone(&on_disk.shard.storage), config);
            let error = session.submit().wait().unwrap_err();
            assert!(matches!(error, IoError::ReadPanicked { .. }), "{mode}, chunk {nth}: {error}");
            session.works();
        }
    }
}

/// Slot through which another thread takes a ticket to drop it.
type Dropped = Arc<Mutex<Option<Ticket>>>;

/// Submits a bundle, waits until another thread drops its ticket and its slot is free, and checks that the reader
/// works.
fn cancel_and_work_on(session: &Session, dropped: &Dropped, moment: fmt::Arguments<'_>) {
    let mut place = dropped.lock().unwrap();
    *place = Some(session.submit());
    drop(place);
    wait_until(|| dropped.lock().unwrap().is_none() && session.pool.free_slots() == N_SLOTS);
    assert_eq!(session.reader.stats().failures, 0, "{moment}");
    session.works();
}

#[test]
fn ticket_dropped_at_any_read_gives_its_slot_back_and_the_reader_works_on() {
    for mode in modes_in(disk_dir().path()) {
        let on_disk = on_disk(mode);
        for nth in 0..n_reads(&on_disk) {
            let dropped = Dropped::default();
            let drops = Arc::clone(&dropped);
            let drop_at = move |idx| drop((idx == nth).then(|| drops.lock().unwrap().take()));
            let storage = Watched::new(&on_disk.shard.storage, drop_at.clone());
            let session = Session::new(&on_disk, storage, config());
            cancel_and_work_on(&session, &dropped, format_args!("{mode}, read {nth}"));

            let session = Session::new(&on_disk, Arc::clone(&on_disk.shard.storage), paced_by(drop_at));
            cancel_and_work_on(&session, &dropped, format_args!("{mode}, admission {nth}"));
        }
    }
}

#[test]
fn reader_closed_at_any_read_ends_its_tickets_and_gives_their_slots_back() {
    for mode in modes_in(disk_dir().path()) {
        let on_disk = on_disk(mode);
        for nth in 0..n_reads(&on_disk) {
            let (reached, closes) = mpsc::channel();
            let storage = Watched::new(&on_disk.shard.storage, move |idx| {
                if idx == nth {
                    reached.send(()).unwrap();
                }
            });
            let Session { reader, bundle, pool, .. } = Session::new(&on_disk, storage, config());
            let tickets = [(); N_SLOTS].map(|()| reader.submit(&bundle, pool.try_acquire().unwrap()));
            closes.recv().unwrap();
            drop(reader);
            for ticket in tickets {
                assert!(ticket.is_done(), "{mode}, read {nth}");
                if let Err(error) = ticket.wait() {
                    assert!(matches!(error, IoError::ReaderClosed { .. }), "{mode}, read {nth}: {error}");
                }
            }
            assert_eq!(pool.free_slots(), N_SLOTS);
        }
    }
}

#[test]
fn ticket_dropped_while_a_thread_is_stuck_does_not_block() {
    let on_disk = on_disk(IoMode::Pread);
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let storage = Watched::new(&on_disk.shard.storage, move |idx| {
        if idx == 0 {
            released.lock().unwrap().recv().unwrap();
        }
    });
    let session = Session::new(&on_disk, Arc::clone(&storage) as _, config());
    let stuck = session.submit();
    wait_until(|| storage.reads.load(Ordering::SeqCst) > 0);
    drop(stuck);
    // The other thread reads the next bundle; the slot stays in use for as long as the storage may write to it.
    drop(session.submit().wait().unwrap());
    assert_eq!(session.pool.free_slots(), N_SLOTS - 1);
    let cancelled_reads = session.reader.cancelled_reads().expect("one read is stuck");
    assert_eq!((cancelled_reads.n_bundles, cancelled_reads.offset), (1, TENSORS[0].start));
    assert_eq!(cancelled_reads.path, on_disk.shard.path);
    release.send(()).unwrap();
    wait_until(|| session.reader.cancelled_reads().is_none());
    assert_eq!(session.pool.free_slots(), N_SLOTS, "the slot is free when there is no straggler any more");
    session.works();
}
