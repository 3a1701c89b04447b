//! Tests of speculative bundles: read after all others, and removed from the queue when cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flash_io::{
    Booking, Budget, BundleLayout, IoError, Pace, Reader, ReaderConfig, Shard, ShardIdx, SlotPool, Span,
    Ticket, open,
};

use crate::support::{disk_dir, modes_in, noise, wait_until, write};

const BUNDLES: usize = 3;
const CHUNKS: usize = 16;
const BUNDLE_BYTES: usize = CHUNKS * 4096;

/// Pacer that holds all chunks until it is opened.
#[derive(Debug, Default)]
struct Valve(Arc<AtomicBool>);

impl Pace for Valve {
    fn book(&self, _: u64) -> Box<dyn Booking> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl Booking for Valve {
    fn pause(&self) -> Duration {
        if self.0.load(Ordering::SeqCst) { Duration::ZERO } else { Duration::from_millis(1) }
    }
}

/// A reader with one read in flight, none before its valve is open; adjacent bundles, and a slot for each.
struct Bench {
    reader: Reader,
    valve: Arc<AtomicBool>,
    bytes: Vec<u8>,
    pool: SlotPool,
}

impl Bench {
    fn layout(bundle: usize) -> Arc<BundleLayout> {
        let start = (bundle * BUNDLE_BYTES) as u64;
        Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(start, start + BUNDLE_BYTES as u64))]))
    }

    fn submit(&self, bundle: usize) -> Ticket {
        self.reader.submit(&Self::layout(bundle), self.pool.try_acquire().unwrap())
    }

    fn guess(&self, bundle: usize) -> Ticket {
        self.reader.guess(0, &Self::layout(bundle), self.pool.try_acquire().unwrap())
    }

    fn open(&self) {
        self.valve.store(true, Ordering::SeqCst);
    }

    /// Waits for a bundle, and checks its bytes.
    fn take(&self, bundle: usize, ticket: Ticket) {
        let wanted = &self.bytes[bundle * BUNDLE_BYTES..][..BUNDLE_BYTES];
        assert_eq!(&ticket.wait().unwrap()[..BUNDLE_BYTES], wanted);
    }
}

/// Runs a test in every available mode.
fn in_each_mode(test: impl Fn(Bench)) {
    let bytes = noise(BUNDLES * BUNDLE_BYTES, 3);
    let dir = disk_dir();
    let path = write(dir.path(), "x", &bytes);
    for mode in modes_in(dir.path()) {
        let valve = Arc::<AtomicBool>::default();
        let pacer = Some(Arc::new(Valve(Arc::clone(&valve))) as Arc<dyn Pace>);
        let config = ReaderConfig { depth: 1, chunk_bytes: 4096, pacer, ..ReaderConfig::default() };
        let shard = Shard::new(path.clone(), open(&path, mode).unwrap());
        let reader = Reader::new(vec![shard], config).unwrap();
        let pool = SlotPool::new(&Budget::new(1 << 30), Bench::layout(0).slot_bytes(), BUNDLES).unwrap();
        test(Bench { reader, valve, bytes: bytes.clone(), pool });
    }
}

#[test]
fn what_is_wanted_overtakes_guesses_submitted_before_it() {
    in_each_mode(|bench| {
        let (guess, wanted) = (bench.guess(0), bench.submit(1));
        bench.open();
        wanted.wait_until_done();
        guess.wait_until_done();
        assert!(wanted.ended() < guess.ended());
        bench.take(0, guess);
        bench.take(1, wanted);
    });
}

#[test]
fn guess_that_is_wanted_overtakes_other_guesses_and_not_what_was_wanted_before() {
    in_each_mode(|bench| {
        let (first, second, wanted) = (bench.guess(0), bench.guess(1), bench.submit(2));
        bench.reader.want(&second);
        bench.open();
        [&first, &second, &wanted].into_iter().for_each(Ticket::wait_until_done);
        assert!(wanted.ended() < second.ended() && second.ended() < first.ended());
        bench.take(0, first);
        bench.take(1, second);
        bench.take(2, wanted);
    });
}

#[test]
fn guess_that_is_done_may_be_wanted() {
    in_each_mode(|bench| {
        bench.open();
        let guess = bench.guess(0);
        guess.wait_until_done();
        bench.reader.want(&guess);
        bench.take(0, guess);
    });
}

#[test]
fn slot_of_a_guess_that_is_given_up_does_not_wait_for_its_turn() {
    in_each_mode(|bench| {
        let wanted = bench.submit(0);
        let (given_up, dropped) = (bench.guess(1), bench.guess(2));
        bench.reader.give_up(given_up);
        assert_eq!(bench.pool.free_slots(), 1, "no read of it was in flight");
        drop(dropped);
        assert_eq!(bench.pool.free_slots(), 1, "it is still queued");
        bench.open();
        bench.take(0, wanted);
        wait_until(|| bench.pool.free_slots() == BUNDLES);
        assert_eq!(bench.reader.stats().failures, 0);
    });
}

#[test]
fn closed_reader_ends_guesses_too() {
    in_each_mode(|bench| {
        let guess = bench.guess(0);
        let Bench { reader, pool, .. } = bench;
        drop(reader);
        assert!(matches!(guess.wait(), Err(IoError::ReaderClosed { .. })));
        assert_eq!(pool.free_slots(), BUNDLES);
    });
}
