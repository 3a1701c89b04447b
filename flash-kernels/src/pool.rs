//! A thread pool for short parallel loops: entering and leaving a job costs microseconds, and idle workers sleep.
//!
//! One state word holds which job is open and how many workers are inside it. Workers enter only while the job is open.
//! The caller closes it as soon as no part is unclaimed, then waits for the workers inside. Workers that wake late thus
//! cost the caller nothing, and the data that a job borrows outlives every use of it.

mod columns;
pub(crate) mod cores;
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
use crate::strips::Strips;
use crate::tuning::KernelTuning;

pub(crate) use columns::{Band, ColumnSplit, Columns, INLINE_MATRICES};
use nesting::{NestingGuard, Pools};
use shares::Shares;
use sleepers::Sleepers;

/// Minimum and maximum time that an idle worker spins before it sleeps. The minimum exceeds the shortest pause between
/// two matrix products of one token (a few graph operations of some µs). The time doubles whenever a job arrives while
/// spinning and returns to the minimum when none does: pauses tend to be as long as those before, and a worker that
/// waits for the disk should yield the processor to the reading threads. Both times are short against a token, so an
/// idle pool costs nothing.
const IDLE_SPIN: [Duration; 2] = [Duration::from_micros(20), Duration::from_micros(160)];
/// Time that the caller spins for the last parts of other threads; longer than a part takes.
const CLOSE_SPIN: Duration = Duration::from_micros(100);
/// Spin iterations per clock reading, which costs about as much as this many iterations.
const SPINS_PER_CLOCK_READ: u32 = 16;

/// State: number of workers inside the job.
const ACTIVE: u64 = 0xFFFF;
/// State: set while workers may enter.
const OPEN: u64 = 1 << 16;
/// State: increment of the job counter in the bits from here up, which keeps workers from mistaking an old job for a
/// new one.
const NEXT_JOB: u64 = 1 << 17;

/// A thread pool for the kernels of this crate, with those of one instruction set.
///
/// A *job* is one call of a kernel, split into parts. The calling thread works too: a pool of `n` threads has `n − 1`
/// workers. A pool serves one caller at a time; others wait their turn. A job must not use the pool that runs it, not
/// even through a job of another pool: that panics.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
    tuning: KernelTuning,
    kernels: Kernels,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    stop: AtomicBool,
    /// Unclaimed parts of the job. The caller is thread 0, the worker `idx` is thread `idx + 1`.
    shares: Shares,
    sleepers: Sleepers,
}

/// A parallel loop: each thread claims parts until none is left.
struct Job<'a> {
    part: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
    /// Pools whose jobs enclose this one, and its own pool last.
    pools: Pools,
}

impl Job<'_> {
    /// Claims and runs parts until none is left. A panic ends the loop for all threads and is kept for the caller.
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
    /// Creates a pool with the threads and kernels of `tuning`.
    ///
    /// The pool is smaller if the system refuses to start that many threads.
    ///
    /// # Errors
    /// [`KernelError::Isa`] if [`Isa::available`] does not list the instruction set.
    pub fn new(tuning: KernelTuning) -> Result<Self, KernelError> {
        let kernels = Kernels { prefetch: tuning.prefetch, ..tuning.isa.kernels()?.clone() };
        Ok(Self::with_kernels(tuning, kernels))
    }

    /// Creates a pool of `n_threads`, including the calling thread, with the kernels of `isa`.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn with_isa(n_threads: NonZeroUsize, isa: Isa) -> Result<Self, KernelError> {
        Self::new(KernelTuning { n_threads, ..KernelTuning::usual(isa)? })
    }

    /// Creates a pool with the [usual](KernelTuning::usual) tuning of `isa`: a thread for each physical core available
    /// to this process.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn for_machine(isa: Isa) -> Result<Self, KernelError> {
        Self::new(KernelTuning::usual(isa)?)
    }

    /// Creates a pool with `kernels`, those of `tuning`.
    pub(crate) fn with_kernels(tuning: KernelTuning, kernels: Kernels) -> Self {
        let n_workers = (tuning.n_threads.get() - 1).min(ACTIVE as usize);
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
                thread::Builder::new().name(name).spawn(move || shared.worker_loop(idx)).ok()
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()), tuning, kernels }
    }

    /// Returns the number of threads that work on a job, including the caller.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Returns the [strips](crate::Matrix::in_strips) with which products of few rows and affine codes of `bits` are
    /// faster than with rows. Strips of another layout are copied back into rows first.
    pub fn strips(&self, bits: u32) -> Option<Strips> {
        self.kernels.strips.filter(|_| self.tuning.uses_strips(bits))
    }

    /// Returns the instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.tuning.isa
    }

    /// Returns the tuning that the pool was created with.
    pub fn tuning(&self) -> &KernelTuning {
        &self.tuning
    }

    pub(crate) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Calls `part` with every number below `n_parts`, on all threads, and returns when all calls have returned.
    ///
    /// # Panics
    /// If a call panics: with the payload of the first, dropping unclaimed parts. If there are 2³² parts or more. If
    /// called from within a job of the same pool, whatever the number of parts and threads.
    pub fn run(&self, n_parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let _inside = NestingGuard::enter(Arc::as_ptr(&self.shared).addr());
        if n_parts <= 1 || self.workers.is_empty() {
            (0..n_parts).for_each(part);
            return;
        }
        let _turn = lock(&self.turn);
        let pools = NestingGuard::current();
        let job = Job { part, panic: Mutex::new(None), caller: thread::current(), pools };
        self.shared.shares.distribute(n_parts);
        // Nothing unwinds between `open` and `close`: `work` catches panics.
        self.shared.open(&job);
        job.work(&self.shared.shares, 0);
        self.shared.close();
        let panic = lock(&job.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Computes `item` for every number below `n_items`, on all threads, and returns the results in order.
    ///
    /// # Panics
    /// See [`run`](Self::run).
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
            // Workers catch the panics of jobs, so `join` reports nothing else.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn open(&self, job: &Job<'_>) {
        self.job.store(ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        // The last job waited for its workers, so no worker is inside and no other thread changes the state.
        let jobs = self.state.load(Ordering::Relaxed) & !(OPEN | ACTIVE);
        self.state.store(jobs.wrapping_add(NEXT_JOB) | OPEN, Ordering::SeqCst);
        self.sleepers.wake_roots();
    }

    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let left = || self.state.load(Ordering::Acquire) & ACTIVE == 0;
        while !spin_until(&left, CLOSE_SPIN) {
            thread::park();
        }
    }

    fn worker_loop(&self, worker_idx: usize) {
        let mut seen = 0;
        let [least, most] = IDLE_SPIN;
        let mut spin_time = least;
        loop {
            let ready = || {
                let state = self.state.load(Ordering::SeqCst);
                self.stop.load(Ordering::SeqCst) || (state & OPEN != 0 && state / NEXT_JOB != seen)
            };
            if spin_until(&ready, spin_time) {
                spin_time = most.min(2 * spin_time);
            } else {
                spin_time = least;
                self.sleepers.sleep_until(worker_idx, &ready);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let enter = |state| (state & OPEN != 0).then_some(state + 1);
            if let Ok(state) = self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter) {
                seen = state / NEXT_JOB;
                self.sleepers.wake_children(worker_idx);
                self.run_job(worker_idx);
            }
        }
    }

    /// Runs the job that this worker has entered, and leaves it.
    fn run_job(&self, worker_idx: usize) {
        let job = self.job.load(Ordering::Relaxed);
        #[expect(unsafe_code, reason = "workers, which outlive a job, borrow it")]
        // SAFETY: `open` stored a pointer to the caller's job before it opened the state that this worker entered. The
        // caller keeps the job in place until the count of workers inside is zero, which happens only after the
        // subtraction below; `caller` is cloned before that.
        let caller = unsafe {
            let _inside = NestingGuard::join((*job).pools.clone());
            (*job).work(&self.shares, worker_idx + 1);
            (*job).caller.clone()
        };
        let state = self.state.fetch_sub(1, Ordering::Release) - 1;
        if state & (OPEN | ACTIVE) == 0 {
            caller.unpark();
        }
    }
}

/// Spins until `condition` is true or `spin_time` has passed; returns whether it became true.
fn spin_until(condition: &dyn Fn() -> bool, spin_time: Duration) -> bool {
    let mut start = None;
    loop {
        for _ in 0..SPINS_PER_CLOCK_READ {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > spin_time {
            return false;
        }
    }
}

/// Locks a mutex and ignores poisoning: jobs do not unwind while holding a lock, and no lock guards state that could be
/// torn.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
