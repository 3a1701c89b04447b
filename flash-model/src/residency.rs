//! Residency: which bundles hold data. Here the plan meets the reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{Budget, IoError, Reader, Slot, SlotPool};
use flash_sched::{Estimates, ResidencyPlan};
use mlx_rs::Array;
use mlx_rs::transforms::async_eval;

use crate::ModelError;
use crate::bundle::{Bundle, BundleIdx, Bundles};
use crate::conduct::{Conduct, Conductor};
use crate::control::Reads;
use crate::meter::Witness;
use crate::read_ahead::{Load, ReadAhead, Source};

/// How long a slot may take to come back when nothing computes any more. It is given back on another thread, a moment after
/// what was computed with it is there.
const SLOT_RETURN: Duration = Duration::from_secs(2);

/// Loads bundles in execution order, ahead of the layers that need them.
///
/// The order is a cycle: behind the last bundle comes the first one of the next token. A pinned bundle is loaded once;
/// the others pass through the slots, each read as soon as a slot is free.
#[derive(Debug)]
pub struct Residency {
    source: Arc<Source>,
    prefetch: bool,
    /// Begun with the first read, if bundles are prefetched at all.
    read_ahead: Option<ReadAhead>,
    /// Of pinned layers, what nobody has begun to compute.
    lazy: Option<Array>,
    /// What computes, or has computed last.
    in_flight: Option<Array>,
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
        let streamed = bundles.as_slice().iter().zip(&plan.pinned).filter(|(_, pinned)| !**pinned);
        let slot_bytes = streamed.map(|(bundle, _)| bundle.slot_bytes()).max().unwrap_or(0);
        let pool = SlotPool::new(budget, slot_bytes, plan.n_slots)?;
        let conductor = Conductor::new(&bundles, &plan, &reader, conduct);
        let source = Source { bundles, plan, reader, pool, budget: budget.clone(), conductor };
        let (read_ahead, lazy, in_flight) = (None, None, None);
        Ok(Self { source: Arc::new(source), prefetch, read_ahead, lazy, in_flight, streamed_bytes: 0 })
    }

    /// The reader, for small reads beside the bundles.
    pub(crate) fn reader(&self) -> &Reader {
        &self.source.reader
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
        self.source.conductor.stall()
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
        if self.prefetch && self.read_ahead.is_none() {
            self.read_ahead = Some(ReadAhead::start(Arc::clone(&self.source))?);
        }
        Ok(())
    }

    /// A pass begins.
    pub(crate) fn begin_pass(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        self.start()?;
        self.lazy = None;
        self.source.conductor.begin_pass(n_tokens, self.reads());
        Ok(())
    }

    /// A pass has ended. If it is complete, nothing computes.
    pub(crate) fn end_pass(&self, is_complete: bool) {
        self.source.conductor.end_pass(is_complete, self.reads());
    }

    /// So much of the pass is done, of `1`.
    pub(crate) fn progress(&self, part: f64) {
        self.source.conductor.progress(part);
    }

    fn reads(&self) -> Option<&dyn Reads> {
        self.read_ahead.as_ref().map(ReadAhead::reads)
    }

    /// What the controller of reads has learned; `None` if there is none.
    pub fn estimates(&self) -> Option<Estimates> {
        self.source.conductor.estimates()
    }

    /// A pinned bundle is used.
    pub(crate) fn uses_pinned(&self, idx: BundleIdx) {
        self.source.conductor.uses_pinned(idx);
    }

    /// The output of a pinned layer, which is begun to be computed with that of the next streamed one, or when that one has
    /// to be waited for.
    pub(crate) fn follow(&mut self, output: &Array) {
        if self.source.plan.streamed_bytes > 0 {
            self.lazy = Some(output.clone());
        }
    }

    /// Begins to compute `output` and does not wait for it: the next layer is made ready meanwhile. Slots that it computes
    /// with come back when it is done, if nobody else holds their arrays.
    pub(crate) fn compute(&mut self, output: &Array) -> Result<(), ModelError> {
        async_eval([output])?;
        self.lazy = None;
        self.in_flight = Some(output.clone());
        Ok(())
    }

    /// Waits until nothing computes that could.
    fn settle(&mut self) -> Result<(), ModelError> {
        if let Some(lazy) = self.lazy.take() {
            self.compute(&lazy)?;
        }
        if let Some(output) = self.in_flight.take() {
            output.eval()?;
        }
        self.source.conductor.settled();
        Ok(())
    }

    /// Waits for a bundle and hands out its slot, which goes back to its pool when it is dropped, and what is to be dropped
    /// with it.
    ///
    /// Waiting is counted as a stall from when nothing computes any more.
    pub(crate) fn acquire(&mut self, idx: BundleIdx) -> Result<(Slot, Option<Witness>), ModelError> {
        let load = self.load(idx)?.map_err(|source| self.bundle(idx).read_error(source))?;
        let Load { ticket, submitted } = load;
        if !ticket.is_done() {
            self.settle()?;
            let begin = Instant::now();
            ticket.wait_until_done();
            self.source.conductor.waited(idx, begin);
        }
        let ended = ticket.ended();
        let slot = ticket.wait().map_err(|source| self.bundle(idx).read_error(source))?;
        if let Some(ended) = ended {
            self.source.conductor.was_read(idx, slot.len() as u64, submitted, ended);
        }
        self.source.conductor.learn(self.reads());
        if self.is_pinned(idx) {
            return Ok((slot, None));
        }
        self.streamed_bytes += self.bundle(idx).tensor_bytes();
        Ok((slot, self.source.conductor.uses_streamed(idx)))
    }

    /// The load of a bundle: a read ahead, or one on demand.
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
            let load = self.read_ahead.as_ref().and_then(|ahead| ahead.take_within(idx, SLOT_RETURN));
            source.conductor.waited(idx, begin);
            return load.ok_or_else(held);
        }
        self.settle()?;
        let slot = if source.is_pinned(idx) {
            source.lone_slot(idx)?
        } else {
            source.pool.acquire_within(SLOT_RETURN).ok_or_else(held)?
        };
        Ok(Ok(source.submit(idx, slot)))
    }
}
