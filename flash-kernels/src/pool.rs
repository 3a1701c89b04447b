//! A thread pool for short parallel loops: entering and leaving cost microseconds, and idle workers sleep.
//!
//! One word of state says everything: which job is open and how many workers are inside it. A worker may enter
//! only while the job is open, the caller closes it as soon as it finds no part unclaimed, and then waits for the
//! workers inside. So a worker that wakes late costs the caller nothing, and what the job borrows outlives
//! every use of it.

mod columns;
mod cores;
mod nesting;
mod shares;
mod sleepers;

use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::error::KernelError;
use crate::isa::{Isa, Kernels};

pub(crate) use columns::{Band, Columns, Cut, FEW};
use nesting::{Inside, Pools};
use shares::Shares;
use sleepers::Sleepers;

/// How long a worker without a job looks before it sleeps, at least and at most. At least: longer than the pause between two
/// matrix products of one token where that is shortest (a few graph operations of some µs). Twice as long each time that a
/// job came while it looked, and the least again when none did: pauses are as long as those before, and a worker that waits
/// for the disk leaves the processor to those who read. Both are short against a token: an idle pool costs nothing.
const LOOKS: [Duration; 2] = [Duration::from_micros(20), Duration::from_micros(160)];
/// The same for the caller, who waits for the last parts of others: longer than one takes.
const LAST_PARTS: Duration = Duration::from_micros(100);
/// Looks between two readings of the clock, which cost about as much as this many looks.
const LOOKS_PER_READING: u32 = 16;

/// State: the workers inside the job.
const ACTIVE: u64 = 0xFFFF;
/// State: workers may enter.
const OPEN: u64 = 1 << 16;
/// State: one more job. The bits from here up count jobs, so that no worker takes an old job for a new one.
const NEXT_JOB: u64 = 1 << 17;

/// Threads that compute matrix products together, and the instruction set they do it with.
///
/// The thread that calls [`matmul`](crate::matmul) works too: a pool of `n` threads has `n − 1` workers.
/// A pool serves one caller at a time; others wait their turn. A job must not use the pool that runs it, not even through a job
/// of another pool: that panics.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
    isa: Isa,
    kernels: &'static Kernels,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    stop: AtomicBool,
    /// The parts of the job: the caller is the thread 0, the worker `idx` the thread `idx + 1`.
    shares: Shares,
    sleepers: Sleepers,
}

/// A loop that threads share: each claims parts until none is left.
struct Job<'a> {
    part: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
    /// Whose job it is, behind those that it is a part of.
    pools: Pools,
}

impl Job<'_> {
    /// Claims and runs parts until none is left; a panic ends the loop for all and is kept for the caller.
    fn work(&self, shares: &Shares, thread_idx: usize) {
        let claim = || {
            while let Some(part_idx) = shares.claim(thread_idx) {
                (self.part)(part_idx);
            }
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(claim)) {
            shares.end();
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

impl Pool {
    /// A pool of `n_threads`, the calling thread included, that uses the instruction set `isa`.
    ///
    /// Fewer, if the system refuses to start as many.
    ///
    /// # Errors
    /// [`KernelError::Isa`] unless [`Isa::available`] lists it.
    pub fn with_isa(n_threads: NonZeroUsize, isa: Isa) -> Result<Self, KernelError> {
        Ok(Self::with_kernels(n_threads, isa, isa.kernels()?))
    }

    /// A pool with a thread for each physical core that this process may use: no more than the CPU quota of its
    /// control group and its affinity allow, and one for the threads of a core, whose arithmetic units they share.
    ///
    /// # Errors
    /// As [`with_isa`](Self::with_isa).
    pub fn for_machine(isa: Isa) -> Result<Self, KernelError> {
        Self::with_isa(cores::usable(), isa)
    }

    /// A pool that uses `kernels`, those of `isa`.
    pub(crate) fn with_kernels(n_threads: NonZeroUsize, isa: Isa, kernels: &'static Kernels) -> Self {
        let n_workers = (n_threads.get() - 1).min(ACTIVE as usize);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            stop: AtomicBool::new(false),
            shares: Shares::new(n_workers + 1),
            sleepers: Sleepers::new(n_workers),
        });
        let workers = (0..n_workers)
            .map_while(|idx| {
                let shared = Arc::clone(&shared);
                let name = format!("flash-kernels-{idx}");
                thread::Builder::new().name(name).spawn(move || shared.serve(idx)).ok()
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()), isa, kernels }
    }

    /// Threads that work on a product, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Whether products with few rows are faster if affine codes of `bits` lie [in strips](crate::Matrix::in_strips). Codes of
    /// 8 bits come from memory as fast in rows, and other instruction sets copy strips back into rows first.
    pub fn prefers_strips(&self, bits: u32) -> bool {
        self.kernels().multiplies_strips && bits == 4
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Calls `part` with every number below `n_parts`, on all threads, and returns when all calls have.
    ///
    /// # Panics
    /// If a call panics: with the payload of the first; parts not yet claimed are dropped. If there are 2³² parts or more. If
    /// called from within a job of the same pool, however many parts and threads there are.
    pub fn run(&self, n_parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let _inside = Inside::caller(Arc::as_ptr(&self.shared).addr());
        if n_parts <= 1 || self.workers.is_empty() {
            (0..n_parts).for_each(part);
            return;
        }
        let _turn = lock(&self.turn);
        let pools = Inside::pools();
        let job = Job { part, panic: Mutex::new(None), caller: thread::current(), pools };
        self.shared.shares.deal(n_parts);
        // Nothing between opening and closing unwinds: `work` catches.
        self.shared.open(&job);
        job.work(&self.shared.shares, 0);
        self.shared.close();
        let panic = lock(&job.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// What `item` makes of every number below `n_items`, computed on all threads.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub(crate) fn map<T: Send + Sync>(&self, n_items: usize, item: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let items: Vec<OnceLock<T>> = (0..n_items).map(|_| OnceLock::new()).collect();
        self.run(n_items, &|idx| {
            items[idx].get_or_init(|| item(idx));
        });
        items.into_iter().filter_map(OnceLock::into_inner).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what jobs throw; it has nothing else to say.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn open(&self, job: &Job<'_>) {
        self.job.store(ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        // No worker is inside (the last job waited for them), so nobody else changes the state now.
        let jobs = self.state.load(Ordering::Relaxed) & !(OPEN | ACTIVE);
        self.state.store(jobs.wrapping_add(NEXT_JOB) | OPEN, Ordering::SeqCst);
        self.sleepers.wake_first();
    }

    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let left = || self.state.load(Ordering::Acquire) & ACTIVE == 0;
        while !spin_until(&left, LAST_PARTS) {
            thread::park();
        }
    }

    fn serve(&self, worker_idx: usize) {
        let mut seen = 0;
        let [least, most] = LOOKS;
        let mut patience = least;
        loop {
            let ready = || {
                let state = self.state.load(Ordering::SeqCst);
                self.stop.load(Ordering::SeqCst) || (state & OPEN != 0 && state / NEXT_JOB != seen)
            };
            if spin_until(&ready, patience) {
                patience = most.min(2 * patience);
            } else {
                patience = least;
                self.sleepers.sleep_until(worker_idx, &ready);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let enter = |state| (state & OPEN != 0).then_some(state + 1);
            if let Ok(state) = self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter) {
                seen = state / NEXT_JOB;
                self.sleepers.wake_behind(worker_idx);
                self.help(worker_idx);
            }
        }
    }

    /// Works on the job this worker has entered, and leaves it.
    fn help(&self, worker_idx: usize) {
        let job = self.job.load(Ordering::Relaxed);
        #[expect(unsafe_code, reason = "workers that outlive a job borrow it")]
        // SAFETY: `open` stored a pointer to the caller's job before it opened the state that this worker
        // entered, and the caller keeps the job where it is until the count of workers inside is zero, which it
        // is not before the subtraction below; `caller` is cloned before that.
        let caller = unsafe {
            let _inside = Inside::member((*job).pools.clone());
            (*job).work(&self.shares, worker_idx + 1);
            (*job).caller.clone()
        };
        let state = self.state.fetch_sub(1, Ordering::Release) - 1;
        if state & (OPEN | ACTIVE) == 0 {
            caller.unpark();
        }
    }
}

/// Looks at `condition` for as long as `patience` lasts; whether it came true.
fn spin_until(condition: &dyn Fn() -> bool, patience: Duration) -> bool {
    let mut start = None;
    loop {
        for _ in 0..LOOKS_PER_READING {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > patience {
            return false;
        }
    }
}

/// Jobs do not unwind while they hold a lock of the pool; a lock guards no state that could be torn.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
