//! The states of a slot under loom: free, out, being filled by several threads, resident, failed, given up. Each test is run
//! in every order that its threads can take with at most [`PREEMPTIONS_MAX`] preemptions.
//!
//! loom knows of locks and atomics, not of the bytes in a slot. [`Bytes`] stands for those.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flash-io --lib interleavings --target-dir target/loom`

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::thread;

use super::fill::{Fill, Origin, Piece, split};
use super::gate::Gate;
use super::queue::{Lane, Queue};
use super::stragglers::GivenUp;
use super::ticket::Ticket;
use crate::budget::Budget;
use crate::error::IoError;
use crate::pages::PageBuf;
use crate::pool::{Slot, SlotPool};

/// How often a thread that could go on is stopped for another one, in each run. With 6, tests of four threads take minutes;
/// `LOOM_MAX_PREEMPTIONS` asks for another number.
const PREEMPTIONS_MAX: usize = 3;

const SLOT_BYTES: usize = 2;
/// A wait with this limit ends by itself, or not: see `sync::checked`.
const SOON: Duration = Duration::from_millis(1);

fn check(body: impl Fn() + Send + Sync + 'static) {
    let mut model = Builder::new();
    model.preemption_bound.get_or_insert(PREEMPTIONS_MAX);
    model.check(body);
}

/// The two bytes of the slots of a pool, as loom sees them: two threads that may access the same one at once, one of them to
/// write, end the test.
#[derive(Clone)]
struct Bytes(Rc<Vec<[UnsafeCell<()>; SLOT_BYTES]>>);

impl Bytes {
    /// Of so many slots, which from now on say by their first byte which they are.
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

    /// What whoever fills a byte of the only slot does to it.
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
    /// At the end of a test: every slot is in its pool, and the budget has all of its bytes when that is dropped.
    fn end(self) {
        let Self { budget, pool, .. } = self;
        assert_eq!(pool.free_slots(), pool.n_slots());
        assert_eq!(budget.used_bytes(), budget.total_bytes());
        drop(Arc::into_inner(pool).expect("no thread has it any more"));
        assert_eq!(budget.used_bytes(), 0);
    }

    /// A thread that takes a slot, writes to it, and gives it back; it tells whether it had one.
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

    /// The only slot, split in two.
    fn split(&self) -> (Arc<Fill>, Piece, Piece) {
        let origin = |offset| Origin { path: Path::new("shard").into(), offset };
        let parts = vec![(0..1, origin(0)), (1..2, origin(1))];
        let (fill, mut pieces) = split(self.pool.try_acquire().unwrap(), parts);
        let second = pieces.pop().unwrap();
        (fill, pieces.pop().unwrap(), second)
    }

    /// A thread that fills a piece as a reader thread does, and says so with `outcome`.
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
        assert!(served[0] && served[2], "who waits without a limit gets a slot");
        setup.end();
    });
}

#[test]
fn every_slot_comes_back_from_whichever_thread_drops_it() {
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
fn wait_that_ends_by_its_limit_takes_no_wake_up_from_another() {
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
fn close_ends_every_wait_for_a_slot_that_does_not_come_back() {
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
fn close_ends_every_wait_while_a_slot_comes_back() {
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
fn memory_of_a_slot_that_comes_back_while_its_pool_is_dropped_is_free() {
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
fn budget_is_never_exceeded_and_counts_every_byte_back() {
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
fn filled_slot_is_handed_over_when_the_last_piece_has_ended() {
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
fn slot_of_a_failed_read_is_back_when_the_waiter_knows() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let threads = [setup.fill(first, failed), setup.fill(second, filled)];
        let error = fill.wait().unwrap_err();
        assert!(matches!(error, IoError::ReadPanicked { offset: 0, .. }));
        let slot = setup.pool.try_acquire().expect("it is back, although the ticket is still there");
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
fn slot_of_a_ticket_dropped_at_any_moment_comes_back_and_no_piece_writes_to_it_then() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let ticket = Ticket::new(fill, Vec::new(), Arc::default());
        let threads = [setup.fill(first, filled), setup.fill(second, failed)];
        drop(ticket);
        let slot = setup.pool.acquire().expect("it comes back");
        setup.bytes.write(&slot);
        drop(slot);
        join(threads);
        setup.end();
    });
}

#[test]
fn slot_that_is_not_back_has_a_straggler_at_any_moment() {
    check(|| {
        let setup = setup(1);
        let (fill, first, second) = setup.split();
        let given_up = Arc::new(GivenUp::default());
        let threads = [setup.fill(first, filled), setup.fill(second, failed)];
        drop(Ticket::new(fill, Vec::new(), Arc::clone(&given_up)));
        assert!(given_up.stragglers().is_some() || setup.pool.free_slots() == 1);
        join(threads);
        assert_eq!(given_up.stragglers(), None);
        setup.end();
    });
}

#[test]
fn ticket_that_is_done_is_not_waited_for() {
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
fn stuck_piece_is_not_waited_for_but_keeps_its_slot() {
    check(|| {
        let setup = setup(1);
        let (fill, stuck, other) = setup.split();
        let bytes = setup.bytes.clone();
        let ring = thread::spawn(move || {
            stuck.abandon(failed(&stuck).unwrap_err());
            // The kernel still writes.
            bytes.write_byte(0);
            stuck.end(Ok(()));
        });
        let other = setup.fill(other, filled);
        assert!(Ticket::new(fill, Vec::new(), Arc::default()).wait().is_err());
        let slot = setup.pool.acquire().expect("it comes back when the kernel is done");
        setup.bytes.write(&slot);
        drop(slot);
        join([ring, other]);
        setup.end();
    });
}

#[test]
fn waiter_of_a_stuck_piece_learns_of_it_before_the_piece_ends() {
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
fn closing_gate_wakes_whoever_sleeps_at_it() {
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

/// A thread that fills the pieces of a queue until that is closed, as a reader thread does.
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

/// The only slot, guessed to be wanted, with its pieces in a queue.
fn guess(setup: &Setup) -> (Arc<Queue<Piece>>, Arc<Fill>) {
    let (fill, first, second) = setup.split();
    let queue = Arc::new(Queue::new());
    queue.push(Lane::Guessed, first);
    queue.push(Lane::Guessed, second);
    (queue, fill)
}

#[test]
fn guess_that_is_wanted_at_any_moment_is_read_once() {
    check(|| {
        let setup = setup(1);
        let (queue, fill) = guess(&setup);
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
fn slot_of_a_guess_given_up_at_any_moment_comes_back() {
    check(|| {
        let setup = setup(1);
        let (queue, fill) = guess(&setup);
        let reader = reader(&setup, &queue);
        drop(Ticket::new(Arc::clone(&fill), Vec::new(), Arc::default()));
        queue.discard(|piece| piece.is_of(&fill));
        let slot = setup.pool.acquire().expect("it comes back");
        setup.bytes.write(&slot);
        drop(slot);
        queue.close();
        reader.join().unwrap();
        drop(fill);
        setup.end();
    });
}

#[test]
fn closing_queue_ends_what_waits_in_it_and_who_waits_at_it() {
    check(|| {
        let setup = setup(1);
        let (queue, fill) = guess(&setup);
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
