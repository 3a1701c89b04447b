//! Residency: which bundles hold data. Here the plan meets the reader.

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
use crate::stream::conduct::{Conduct, FeedbackLoop};
use crate::stream::control::Reads;
use crate::stream::evaluation::Evaluation;
use crate::stream::meter::SlotReleaseTimer;
use crate::stream::read_ahead::{Load, ReadAhead, Source};

/// Loads bundles in execution order, ahead of the layers that need them.
///
/// The order is a cycle: behind the last bundle comes the first one of the next token. A pinned bundle is loaded once;
/// the others pass through the slots, each read as soon as a slot is free.
#[derive(Debug)]
pub struct Residency {
    source: Arc<Source>,
    prefetch: bool,
    allowance: Allowance,
    /// The allowance that the plan was made for; none if planning anew failed half-way.
    planned_bytes: Option<u64>,
    /// Begun with the first read, if bundles are prefetched at all.
    read_ahead: Option<ReadAhead>,
    evaluation: Evaluation,
    streamed_bytes: u64,
}

impl Residency {
    /// Takes the slots from the budget; nothing is read yet. `reader` must read the checkpoint's shards, and `plan` be
    /// one of these `bundles`.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the budget has no room for the slots.
    pub fn new(
        bundles: Bundles,
        plan: ResidencyPlan,
        reader: Reader,
        budget: &Budget,
        conduct: Conduct,
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

    /// The reader, for small reads beside the bundles.
    pub(crate) fn reader(&self) -> &Reader {
        &self.source.reader
    }

    /// The same, for whoever reads beside the bundles.
    pub(crate) fn shared_reader(&self) -> Arc<Reader> {
        Arc::clone(&self.source.reader)
    }

    pub(crate) fn bundle(&self, idx: BundleIdx) -> &Bundle {
        self.source.bundle(idx)
    }

    pub(crate) fn is_pinned(&self, idx: BundleIdx) -> bool {
        self.source.is_pinned(idx)
    }

    /// The bundles, in execution order.
    pub fn bundles(&self) -> &Bundles {
        &self.source.bundles
    }

    /// Which of them are pinned, and the slots of the others.
    pub fn plan(&self) -> &ResidencyPlan {
        &self.source.plan
    }

    /// How long computing has waited for reads.
    pub fn stall(&self) -> Duration {
        self.source.feedback.stall()
    }

    /// Bytes of weights that came and went, so far.
    pub fn streamed_bytes(&self) -> u64 {
        self.streamed_bytes
    }

    /// Weights that stay once they are read.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.sum_tensor_bytes(true)
    }

    /// Weights that each pass reads.
    pub(crate) fn pass_bytes(&self) -> u64 {
        self.sum_tensor_bytes(false)
    }

    fn sum_tensor_bytes(&self, pinned: bool) -> u64 {
        let Source { bundles, plan, .. } = &*self.source;
        let all = bundles.as_slice().iter().zip(&plan.pinned);
        let matching = all.filter(|(_, is_pinned)| **is_pinned == pinned);
        matching.map(|(bundle, _)| bundle.tensor_bytes()).sum()
    }

    /// Begins to read the first bundles, if they are prefetched at all.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the system gives no thread.
    pub fn start(&mut self) -> Result<(), ModelError> {
        // Without a plan it begins when there is one.
        if self.prefetch && self.read_ahead.is_none() && self.planned_bytes.is_some() {
            let ahead = ReadAhead::start(Arc::clone(&self.source), BundleIdx(0), |_| false)?;
            self.read_ahead = Some(ahead);
        }
        Ok(())
    }

    /// A pass begins.
    pub(crate) fn begin_pass(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        self.start()?;
        self.evaluation.begin_pass();
        self.source.feedback.begin_pass(n_tokens, self.reads());
        Ok(())
    }

    /// A pass has ended. If it is complete, nothing computes.
    pub(crate) fn end_pass(&self, is_complete: bool) {
        self.source.feedback.end_pass(is_complete, self.reads());
    }

    /// So much of the pass is done, of `1`.
    pub(crate) fn progress(&self, part: f64) {
        self.source.feedback.progress(part);
    }

    fn reads(&self) -> Option<&dyn Reads> {
        self.read_ahead.as_ref().map(ReadAhead::reads)
    }

    /// What the controller of reads has learned; `None` if there is none.
    pub fn estimates(&self) -> Option<Estimates> {
        self.source.feedback.estimates()
    }

    /// A pinned bundle is used.
    pub(crate) fn record_pinned(&self, idx: BundleIdx) {
        self.source.feedback.record_pinned(idx);
    }

    /// A layer was run: begins to compute its output, or leaves it to be computed together with that of the next layers
    /// ([`Evaluation::add`]).
    pub(crate) fn schedule_output(&mut self, idx: BundleIdx, output: &Value) -> Result<(), ModelError> {
        let streams = self.source.plan.streamed_bytes > 0;
        Ok(self.evaluation.add(output, self.is_pinned(idx), streams)?)
    }

    /// Begins to compute the next chunk of a prompt, and what a layer leaves `beside` it, and waits for the one before: the
    /// processors go from one to the other.
    pub(crate) fn schedule_chunk<'a>(
        &mut self,
        output: &'a Array,
        beside: impl Iterator<Item = &'a Array>,
    ) -> Result<(), ModelError> {
        Ok(self.evaluation.submit_chunk(output, beside)?)
    }

    /// Waits until nothing is computing that could be.
    pub(crate) fn settle(&mut self) -> Result<(), ModelError> {
        self.evaluation.finish()?;
        self.source.feedback.mark_idle();
        Ok(())
    }

    /// Waits for a bundle and hands out its slot, which goes back to its pool when it is dropped, and what is to be dropped
    /// with it.
    ///
    /// Waiting is counted as a stall from when nothing computes any more.
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

    /// The load of a bundle: a read ahead, or one on demand.
    ///
    /// # Errors
    /// [`ModelError::SlotHeld`] if no slot comes back although nothing computes and nothing is read; inside, if memory for it
    /// could not be had, or a disk that does not answer keeps it.
    fn load(&mut self, idx: BundleIdx) -> Result<Result<Load, IoError>, ModelError> {
        self.start()?;
        let source = Arc::clone(&self.source);
        let held = || ModelError::SlotHeld { bundle: source.bundle(idx).name.clone() };
        if let Some(ahead) = &self.read_ahead {
            if let Some(load) = ahead.try_take(idx) {
                return Ok(load);
            }
            // All slots are out: those that were computed with come back when that is done.
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

/// The slots of a plan.
fn pool(bundles: &Bundles, plan: &ResidencyPlan, budget: &Budget) -> Result<SlotPool, IoError> {
    let streamed = bundles.as_slice().iter().zip(&plan.pinned).filter(|(_, pinned)| !**pinned);
    let slot_bytes = streamed.map(|(bundle, _)| bundle.slot_bytes()).max().unwrap_or(0);
    SlotPool::new(budget, slot_bytes, plan.n_slots)
}
