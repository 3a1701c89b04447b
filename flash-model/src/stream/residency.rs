//! Residency: loads and holds bundles according to a plan.

mod replan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{Budget, IoError, Reader, Slot, SlotPool};
use flash_sched::{Estimates, ResidencyPlan};
use mlx_rs::Array;

use crate::ModelError;
use crate::compute::Value;
use crate::memory::allowance::Allowance;
use crate::memory::slots::{SLOT_RETURN, wait_for};
use crate::stream::bundle::{Bundle, BundleIdx, Bundles};
use crate::stream::conduct::{FeedbackLoop, ReadOptions};
use crate::stream::control::Reads;
use crate::stream::evaluation::Evaluation;
use crate::stream::meter::SlotReleaseTimer;
use crate::stream::read_ahead::{Load, ReadAhead, Source};

/// The bundles in memory: loads them in execution order, ahead of the layers that need them.
///
/// The order is a cycle: the last bundle is followed by the first one of the next token. A pinned bundle is loaded
/// once; the others pass through the slots, each read as soon as a slot is free.
#[derive(Debug)]
pub struct Residency {
    source: Arc<Source>,
    prefetch: bool,
    allowance: Allowance,
    /// The allowance of the current plan; `None` if replanning failed half-way.
    planned_bytes: Option<u64>,
    /// Started with the first read, if bundles are prefetched.
    read_ahead: Option<ReadAhead>,
    evaluation: Evaluation,
    streamed_bytes: u64,
}

impl Residency {
    /// Allocates the slots from the budget; nothing is read yet. `reader` must read the checkpoint's shards, and `plan`
    /// must be a plan of these `bundles`.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the budget has no room for the slots.
    pub fn new(
        bundles: Bundles,
        plan: ResidencyPlan,
        reader: Reader,
        budget: &Budget,
        conduct: ReadOptions,
    ) -> Result<Self, ModelError> {
        let prefetch = conduct.prefetch;
        let pool = pool(&bundles, &plan, budget)?;
        let feedback = Arc::new(FeedbackLoop::new(&bundles, &plan, &reader, conduct));
        let (bundles, reader) = (Arc::new(bundles), Arc::new(reader));
        let source = Source { bundles, plan, reader, pool, budget: budget.clone(), feedback };
        Ok(Self {
            source: Arc::new(source),
            prefetch,
            allowance: Allowance::new(budget.total_bytes()),
            planned_bytes: Some(budget.total_bytes()),
            read_ahead: None,
            evaluation: Evaluation::default(),
            streamed_bytes: 0,
        })
    }

    /// Returns the reader, for small reads beside the bundles.
    pub(crate) fn reader(&self) -> &Reader {
        &self.source.reader
    }

    /// Returns a shared handle to the reader.
    pub(crate) fn shared_reader(&self) -> Arc<Reader> {
        Arc::clone(&self.source.reader)
    }

    pub(crate) fn bundle(&self, idx: BundleIdx) -> &Bundle {
        self.source.bundle(idx)
    }

    pub(crate) fn is_pinned(&self, idx: BundleIdx) -> bool {
        self.source.is_pinned(idx)
    }

    /// Returns the bundles, in execution order.
    pub fn bundles(&self) -> &Bundles {
        &self.source.bundles
    }

    /// Returns the plan: which bundles are pinned, and the slots for the others.
    pub fn plan(&self) -> &ResidencyPlan {
        &self.source.plan
    }

    /// Returns the total time that compute stalled for reads.
    pub fn stall(&self) -> Duration {
        self.source.feedback.stall()
    }

    /// Returns the bytes of weights streamed so far.
    pub fn streamed_bytes(&self) -> u64 {
        self.streamed_bytes
    }

    /// Returns the bytes of pinned weights.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.sum_tensor_bytes(true)
    }

    /// Returns the bytes of weights that each pass reads.
    pub(crate) fn pass_bytes(&self) -> u64 {
        self.sum_tensor_bytes(false)
    }

    fn sum_tensor_bytes(&self, pinned: bool) -> u64 {
        let Source { bundles, plan, .. } = &*self.source;
        let all = bundles.as_slice().iter().zip(&plan.pinned);
        let matching = all.filter(|(_, is_pinned)| **is_pinned == pinned);
        matching.map(|(bundle, _)| bundle.tensor_bytes()).sum()
    }

    /// Starts reading the first bundles, if bundles are prefetched.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the system gives no thread.
    pub fn start(&mut self) -> Result<(), ModelError> {
        // Without a valid plan, reading starts once there is one.
        if self.prefetch && self.read_ahead.is_none() && self.planned_bytes.is_some() {
            let ahead = ReadAhead::start(Arc::clone(&self.source), BundleIdx(0), |_| false)?;
            self.read_ahead = Some(ahead);
        }
        Ok(())
    }

    /// Begins a pass.
    pub(crate) fn begin_pass(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        self.start()?;
        self.evaluation.begin_pass();
        self.source.feedback.begin_pass(n_tokens, self.reads());
        Ok(())
    }

    /// Ends a pass. After a complete one, nothing is computing.
    pub(crate) fn end_pass(&self, is_complete: bool) {
        self.source.feedback.end_pass(is_complete, self.reads());
    }

    /// Reports the fraction of the pass that is done.
    pub(crate) fn progress(&self, part: f64) {
        self.source.feedback.progress(part);
    }

    fn reads(&self) -> Option<&dyn Reads> {
        self.read_ahead.as_ref().map(ReadAhead::reads)
    }

    /// Returns the estimates of the read controller; `None` if there is none.
    pub fn estimates(&self) -> Option<Estimates> {
        self.source.feedback.estimates()
    }

    /// Records the use of a pinned bundle.
    pub(crate) fn record_pinned(&self, idx: BundleIdx) {
        self.source.feedback.record_pinned(idx);
    }

    /// Schedules the evaluation of a layer's output: now, or together with the outputs of the next layers
    /// ([`Evaluation::add`]).
    pub(crate) fn schedule_output(&mut self, idx: BundleIdx, output: &Value) -> Result<(), ModelError> {
        let streams = self.source.plan.streamed_bytes > 0;
        Ok(self.evaluation.add(output, self.is_pinned(idx), streams)?)
    }

    /// Submits the next chunk of a prompt and the arrays `beside` it, then waits for the chunk before, so that the
    /// processors always have work.
    pub(crate) fn schedule_chunk<'a>(
        &mut self,
        output: &'a Array,
        beside: impl Iterator<Item = &'a Array>,
    ) -> Result<(), ModelError> {
        Ok(self.evaluation.submit_chunk(output, beside)?)
    }

    /// Waits until all submitted work is computed.
    pub(crate) fn settle(&mut self) -> Result<(), ModelError> {
        self.evaluation.finish()?;
        self.source.feedback.mark_idle();
        Ok(())
    }

    /// Waits for a bundle and returns its slot, which returns to its pool when dropped, and the timer to drop with it.
    ///
    /// The stall is counted from when nothing else computes.
    pub(crate) fn acquire(&mut self, idx: BundleIdx) -> Result<(Slot, Option<SlotReleaseTimer>), ModelError> {
        let load = self.load(idx)?.map_err(|source| self.bundle(idx).read_error(source))?;
        let Load { ticket, submitted } = load;
        if !ticket.is_done() {
            self.settle()?;
            let begin = Instant::now();
            ticket.wait_until_done();
            self.source.feedback.record_stall(idx, begin);
        }
        let ended = ticket.ended();
        let slot = ticket.wait().map_err(|source| self.bundle(idx).read_error(source))?;
        if let Some(ended) = ended {
            self.source.feedback.record_read(idx, slot.len() as u64, submitted, ended);
        }
        self.source.feedback.update(self.reads());
        if self.is_pinned(idx) {
            return Ok((slot, None));
        }
        self.streamed_bytes += self.bundle(idx).tensor_bytes();
        Ok((slot, self.source.feedback.record_streamed(idx)))
    }

    /// Returns the load of a bundle: from the read-ahead, or on demand.
    ///
    /// # Errors
    /// [`ModelError::SlotHeld`] if no slot is released although nothing computes and nothing is read. The inner error
    /// is for memory that could not be allocated, or is held by a disk that does not answer.
    fn load(&mut self, idx: BundleIdx) -> Result<Result<Load, IoError>, ModelError> {
        self.start()?;
        let source = Arc::clone(&self.source);
        let held = || ModelError::SlotHeld { bundle: source.bundle(idx).name.clone() };
        if let Some(ahead) = &self.read_ahead {
            if let Some(load) = ahead.try_take(idx) {
                return Ok(load);
            }
            // All slots are in use; settling releases those of finished layers.
            self.settle()?;
            let begin = Instant::now();
            let ahead = self.read_ahead.as_ref();
            let load = wait_for(&source.reader, SLOT_RETURN, |limit| ahead?.take_within(idx, limit));
            source.feedback.record_stall(idx, begin);
            return match load {
                Ok(load) => load.ok_or_else(held),
                Err(error) => Ok(Err(error)),
            };
        }
        self.settle()?;
        let slot = if source.is_pinned(idx) {
            source.unpooled_slot(idx, || false).map(Some)
        } else {
            wait_for(&source.reader, SLOT_RETURN, |limit| source.pool.acquire_within(limit))
        };
        match slot {
            Ok(slot) => Ok(Ok(source.submit(idx, slot.ok_or_else(held)?))),
            Err(error) => Ok(Err(error)),
        }
    }
}

/// Allocates the slots of a plan.
fn pool(bundles: &Bundles, plan: &ResidencyPlan, budget: &Budget) -> Result<SlotPool, IoError> {
    let streamed = bundles.as_slice().iter().zip(&plan.pinned).filter(|(_, pinned)| !**pinned);
    let slot_bytes = streamed.map(|(bundle, _)| bundle.slot_bytes()).max().unwrap_or(0);
    SlotPool::new(budget, slot_bytes, plan.n_slots)
}
