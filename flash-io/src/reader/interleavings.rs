//! loom tests of a slot's states: free, acquired, being filled by several threads, resident, failed, cancelled. Each
//! test runs in every interleaving of its threads with at most [`PREEMPTIONS_MAX`] preemptions.
//!
//! loom tracks locks and atomics, not the bytes of a slot, which [`Bytes`] models.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flash-io --lib interleavings --target-dir target/loom`

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::thread;

use super::cancelled_reads::CancelledFills;
use super::fill::{Fill, Origin, Piece, split};
use super::gate::Gate;
use super::queue::{Lane, Queue};
use super::ticket::Ticket;
use crate::budget::Budget;
use crate::error::IoError;
use crate::pages::PageBuf;
use crate::pool::{Slot, SlotPool};

/// Maximum preemptions in each run. With 6, tests of four threads take minutes; `LOOM_MAX_PREEMPTIONS` overrides it.
const PREEMPTIONS_MAX: usize = 3;

const SLOT_BYTES: usize = 2;
/// Limit of a wait that may or may not time out: see `sync::checked`.
const SOON: Duration = Duration::from_millis(1);

fn check(body: impl Fn() + Send + Sync + 'static) {
    let mut model = Builder::new();
    model.preemption_bound.get_or_insert(PREEMPTIONS_MAX);
    model.check(body);
}

/// loom's model of the two bytes of each slot in a pool: a data race on one of them fails the test.
#[derive(Clone)]
struct Bytes(Rc<Vec<[UnsafeCell<()>; SLOT_BYTES]>>);

impl Bytes {
    /// Models the slots of a pool, and stores the index of each in its first byte.
    fn of(pool: &SlotPool) -> Self {
        let mut slots: Vec<_> = (0..pool.n_slots()).map(|_| pool.try_acquire().unwrap()).collect();
        slots.iter_mut().enumerate().for_each(|(idx, slot)| slot[0] = idx as u8);
        Self(Rc::new(slots.iter().map(|_| [UnsafeCell::new(()), UnsafeCell::new(())]).collect()))
    }

    fn write(&self, slot: &Slot) {
        self.0[usize::from(slot[0])].iter().for_each(|byte| byte.with_mut(|_| ()));
    }

    fn read(&self, slot: &Slot) {
        self.0[usize::from(slot[0])].iter().for_each(|byte| byte.with(|_| ()));
    }

    /// Models a write to one byte of the only slot.
    fn write_byte(&self, byte: usize) {
        self.0[0][byte].with_mut(|_| ());
    }
}

struct Setup {
    budget: Budget,
    pool: Arc<SlotPool>,
    bytes: Bytes,
}

fn setup(n_slots: usize) -> Setup {
    let budget = Budget::new(n_slots as u64 * PageBuf::cost_bytes(SLOT_BYTES));
    let pool = Arc::new(SlotPool::new(&budget, SLOT_BYTES, n_slots).unwrap());
    let bytes = Bytes::of(&pool);
    Setup { budget, pool, bytes }
}

impl Setup {
    /// Checks at the end of a test that every slot is free, and that dropping the pool releases the whole budget.
    fn end(self) {
        let Self { budget, pool, .. } = self;
        assert_eq!(pool.free_slots(), pool.n_slots());
        assert_eq!(budget.used_bytes(), budget.total_bytes());
        drop(Arc::into_inner(pool).expect("no thread holds the pool any more"));
        assert_eq!(budget.used_bytes(), 0);
    }

    /// Starts a thread that acquires a slot, writes to it and releases it; returns whether it got one.
    fn user(&self, acquire: impl FnOnce(&SlotPool) -> Option<Slot> + 'static) -> thread::JoinHandle<bool> {
        let (pool, bytes) = (Arc::clone(&self.pool), self.bytes.clone());
        thread::spawn(move || {
            let slot = acquire(&pool);
            if let Some(slot) = &slot {
                bytes.write(slot);
            }
            slot.is_some()
        })
    }

    /// Splits the only slot into two pieces.
    fn split(&self) -> (Arc<Fill>, Piece, Piece) {
        let origin = |offset| Origin { path: Path::new("shard").into(), offset };
        let parts = vec![(0..1, origin(0)), (1..2, origin(1))];
        let (fill, mut pieces) = split(self.pool.try_acquire().unwrap(), parts);
        let second = pieces.pop().unwrap();
        (fill, pieces.pop().unwrap(), second)
    }

    /// Starts a thread that fills a piece as a reader thread does, and ends it with `outcome`.
    fn fill(
        &self,
        piece: Piece,
        outcome: impl FnOnce(&Piece) -> Result<(), IoError> + 'static,
    ) -> thread::JoinHandle<()> {
        let bytes = self.bytes.clone();
        thread::spawn(move || {
            if piece.is_cancelled() {
                return piece.end(Ok(()));
            }
            bytes.write_byte(piece.origin().offset as usize);
            let outcome = outcome(&piece);
            piece.end(outcome);
        })
    }
}

fn filled(_: &Piece) -> Result<(), IoError> {
    Ok(())
}

fn failed(piece: &Piece) -> Result<(), IoError> {
    Err(IoError::ReadPanicked { path: piece.origin().path.to_path_buf(), offset: piece.origin().offset })
}

fn join<T: 'static>(threads: impl IntoIterator<Item = thread::JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn no_slot_is_handed_out_twice() {
    check(|| {
        let setup = setup(2);
        let users =
            [setup.user(SlotPool::acquire), setup.user(SlotPool::try_acquire), setup.user(SlotPool::acquire)];
        if let Some(slot) = setup.pool.acquire_within(SOON) {
            setup.bytes.write(&slot);
        }
        let served = join(users);
        assert!(served[0] && served[2], "a wait without a limit gets a slot");
        setup.end();
    });
}

#[test]
fn every_slot_is_released_by_any_thread_that_drops_it() {
    check(|| {
        let setup = setup(2);
        let users = [(); 2].map(|()| {
            let slot = setup.pool.try_acquire().unwrap();
            setup.bytes.write(&slot);
            setup.user(move |_| Some(slot))
        });
        let waiter = setup.user(SlotPool::acquire);
        join(users);
        assert!(waiter.join().unwrap());
        setup.end();
    });
}

#[test]
fn each_return_wakes_a_waiter() {
    check(|| {
        let setup = setup(2);
        let slots = [(); 2].map(|()| setup.pool.try_acquire().unwrap());
        let waiters = [setup.user(SlotPool::acquire), setup.user(|pool| pool.acquire_within(Duration::MAX))];
        drop(slots);
        assert_eq!(join(waiters), [true, true]);
        setup.end();
    });
}

#[test]
fn wait_that_times_out_takes_no_wake_up_from_another() {
    check(|| {
        let setup = setup(1);
        let slot = setup.pool.try_acquire().unwrap();
        let limited = [setup.user(|pool| pool.acquire_within(SOON))];
        let waiter = setup.user(SlotPool::acquire);
        drop(slot);
        join(limited);
        assert!(waiter.join().unwrap());
        setup.end();
    });
}

#[test]
fn close_ends_every_wait_for_a_slot_that_is_not_released() {
    check(|| {
        let setup = setup(1);
        let slot = setup.pool.try_acquire().unwrap();
        let waiters = [setup.user(SlotPool::acquire), setup.user(|pool| pool.acquire_within(Duration::MAX))];
        setup.pool.close();
        assert_eq!(join(waiters), [false, false]);
        drop(slot);
        setup.end();
    });
}

#[test]
fn close_ends_every_wait_while_a_slot_is_released() {
    check(|| {
        let setup = setup(1);
        let slot = setup.pool.try_acquire().unwrap();
        let returns = setup.user(move |_| Some(slot));
        let waiters = [setup.user(SlotPool::acquire), setup.user(|pool| pool.acquire_within(Duration::MAX))];
        setup.pool.close();
        join(waiters);
        returns.join().unwrap();
        assert!(setup.pool.acquire().is_none() && setup.pool.acquire_within(SOON).is_none());
        setup.end();
    });
}

#[test]
fn slot_released_while_its_pool_is_dropped_frees_its_memory() {
    check(|| {
        let Setup { budget, pool, .. } = setup(2);
        let slots = [(); 2].map(|()| pool.try_acquire().unwrap());
        let threads = slots.map(|slot| thread::spawn(move || drop(slot)));
        drop(pool);
        join(threads);
        assert_eq!(budget.used_bytes(), 0);
    });
}

#[test]
fn budget_is_never_exceeded_and_every_byte_is_released() {
    check(|| {
        let budget = Budget::new(3);
        let threads = [1, 2].map(|bytes| {
            let budget = budget.clone();
            thread::spawn(move || budget.reserve(bytes).is_ok())
        });
        let whole = budget.reserve(3).is_ok();
        let parts = join(threads);
        assert!(whole || parts.contains(&true), "one at a time always fits");
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.peak_bytes() <= 3);
    });
}

#[test]
fn filled_slot_is_returned_when_the_last_piece_has_ended() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let threads = [setup.fill(first, filled), setup.fill(second, filled)];
        let slot = Ticket::new(fill, Vec::new(), Arc::default()).wait().unwrap();
        setup.bytes.read(&slot);
        drop(slot);
        join(threads);
        setup.end();
    });
}

#[test]
fn slot_of_a_failed_read_is_free_when_the_waiter_returns() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let threads = [setup.fill(first, failed), setup.fill(second, filled)];
        let error = fill.wait().unwrap_err();
        assert!(matches!(error, IoError::ReadPanicked { offset: 0, .. }));
        let slot = setup.pool.try_acquire().expect("the slot is free although the fill still exists");
        setup.bytes.write(&slot);
        drop(slot);
        join(threads);
        setup.end();
    });
}

#[test]
fn piece_that_is_dropped_unread_fails_its_bundle_as_closed() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let threads = [setup.fill(first, filled), thread::spawn(move || drop(second))];
        let error = Ticket::new(fill, Vec::new(), Arc::default()).wait().unwrap_err();
        assert!(matches!(error, IoError::ReaderClosed { offset: 1, .. }));
        assert_eq!(setup.pool.free_slots(), 1);
        join(threads);
        setup.end();
    });
}

#[test]
fn slot_of_a_ticket_dropped_at_any_moment_is_released_and_not_written_to_after_that() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let ticket = Ticket::new(fill, Vec::new(), Arc::default());
        let threads = [setup.fill(first, filled), setup.fill(second, failed)];
        drop(ticket);
        let slot = setup.pool.acquire().expect("the slot is released");
        setup.bytes.write(&slot);
        drop(slot);
        join(threads);
        setup.end();
    });
}

#[test]
fn slot_that_is_not_released_has_a_straggler_at_any_moment() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let cancelled = Arc::new(CancelledFills::default());
        let threads = [setup.fill(first, filled), setup.fill(second, failed)];
        drop(Ticket::new(fill, Vec::new(), Arc::clone(&cancelled)));
        assert!(cancelled.cancelled_reads().is_some() || setup.pool.free_slots() == 1);
        join(threads);
        assert_eq!(cancelled.cancelled_reads(), None);
        setup.end();
    });
}

#[test]
fn ticket_that_is_done_does_not_block() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let ticket = Ticket::new(fill, Vec::new(), Arc::default());
        let threads = [setup.fill(first, filled), setup.fill(second, filled)];
        if ticket.is_done() {
            setup.bytes.read(&ticket.wait().unwrap());
        } else {
            drop(ticket);
        }
        join(threads);
        setup.end();
    });
}

#[test]
fn stuck_piece_blocks_no_waiter_but_keeps_its_slot() {
    check(|| {
        let setup = setup(1);
        let (fill, stuck, other) = setup.split();
        let bytes = setup.bytes.clone();
        let ring = thread::spawn(move || {
            stuck.abandon(failed(&stuck).unwrap_err());
            // The kernel is still writing.
            bytes.write_byte(0);
            stuck.end(Ok(()));
        });
        let other = setup.fill(other, filled);
        assert!(Ticket::new(fill, Vec::new(), Arc::default()).wait().is_err());
        let slot = setup.pool.acquire().expect("the slot is released when the kernel is done");
        setup.bytes.write(&slot);
        drop(slot);
        join([ring, other]);
        setup.end();
    });
}

#[test]
fn waiter_of_a_stuck_piece_returns_before_the_piece_ends() {
    check(|| {
        let setup = setup(1);
        let (fill, stuck, other) = setup.split();
        let other = setup.fill(other, filled);
        let waiter =
            thread::spawn(move || assert!(Ticket::new(fill, Vec::new(), Arc::default()).wait().is_err()));
        stuck.abandon(failed(&stuck).unwrap_err());
        join([waiter, other]);
        assert_eq!(setup.pool.free_slots(), 0);
        drop(stuck);
        setup.end();
    });
}

#[test]
fn closing_gate_wakes_all_sleepers() {
    check(|| {
        let gate = Arc::new(Gate::default());
        let sleepers = [Duration::MAX, SOON].map(|time| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.sleep(time))
        });
        gate.close();
        join(sleepers);
        assert!(gate.is_closed());
    });
}

/// Starts a thread that fills the pieces of a queue until it closes, as a reader thread does.
fn reader(setup: &Setup, queue: &Arc<Queue<Piece>>) -> thread::JoinHandle<()> {
    let (bytes, queue) = (setup.bytes.clone(), Arc::clone(queue));
    thread::spawn(move || {
        while let Some(piece) = queue.pop() {
            if !piece.is_cancelled() {
                bytes.write_byte(piece.origin().offset as usize);
            }
            piece.end(Ok(()));
        }
    })
}

/// Queues the pieces of the only slot as speculative.
fn speculate(setup: &Setup) -> (Arc<Queue<Piece>>, Arc<Fill>) {
    let (fill, first, second) = setup.split();
    let queue = Arc::new(Queue::new());
    queue.push(Lane::Speculative, first);
    queue.push(Lane::Speculative, second);
    (queue, fill)
}

#[test]
fn fill_promoted_at_any_moment_is_read_once() {
    check(|| {
        let setup = setup(1);
        let (queue, fill) = speculate(&setup);
        let readers = [reader(&setup, &queue), reader(&setup, &queue)];
        queue.promote(|piece| piece.is_of(&fill));
        let slot = Ticket::new(fill, Vec::new(), Arc::default()).wait().unwrap();
        setup.bytes.read(&slot);
        drop(slot);
        queue.close();
        join(readers);
        setup.end();
    });
}

#[test]
fn slot_of_a_speculative_fill_cancelled_at_any_moment_is_released() {
    check(|| {
        let setup = setup(1);
        let (queue, fill) = speculate(&setup);
        let reader = reader(&setup, &queue);
        drop(Ticket::new(Arc::clone(&fill), Vec::new(), Arc::default()));
        queue.discard(|piece| piece.is_of(&fill));
        let slot = setup.pool.acquire().expect("the slot is released");
        setup.bytes.write(&slot);
        drop(slot);
        queue.close();
        reader.join().unwrap();
        drop(fill);
        setup.end();
    });
}

#[test]
fn closing_queue_ends_its_items_and_waiters() {
    check(|| {
        let setup = setup(1);
        let (queue, fill) = speculate(&setup);
        let reader = reader(&setup, &queue);
        let late = Arc::clone(&queue);
        let closer = thread::spawn(move || late.close());
        let outcome = Ticket::new(fill, Vec::new(), Arc::default()).wait();
        if let Ok(slot) = &outcome {
            setup.bytes.read(slot);
        }
        drop(outcome);
        join([reader, closer]);
        setup.end();
    });
}
