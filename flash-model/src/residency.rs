//! Residency: which bundles hold data. Here the plan meets the reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{Budget, IoError, Reader, Slot, SlotPool};
use flash_sched::{Estimates, ResidencyPlan};
use mlx_rs::Array;
use mlx_rs::transforms::async_eval;

use crate::ModelError;
use crate::allowance::Allowance;
use crate::bundle::{Bundle, BundleIdx, Bundles};
use crate::compute::Value;
use crate::conduct::{Conduct, Conductor};
use crate::control::Reads;
use crate::experts::Experts;
use crate::meter::Witness;
use crate::planner::MachineSpeeds;
use crate::proxy::Holder;
use crate::read_ahead::{Load, ReadAhead, Source};
use crate::slots::{SLOT_RETURN, once_there_is_room, wait_for};

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
    /// Of pinned layers, what nobody has begun to compute.
    lazy: Option<Value>,
    /// How many have been run since something was begun, and how many were begun at once then.
    n_lazy: usize,
    n_begun: usize,
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
        let pool = pool(&bundles, &plan, budget)?;
        let conductor = Arc::new(Conductor::new(&bundles, &plan, &reader, conduct));
        let (bundles, reader) = (Arc::new(bundles), Arc::new(reader));
        let source = Source { bundles, plan, reader, pool, budget: budget.clone(), conductor };
        Ok(Self {
            source: Arc::new(source),
            prefetch,
            allowance: Allowance::new(budget.total_bytes()),
            planned_bytes: Some(budget.total_bytes()),
            read_ahead: None,
            lazy: None,
            n_lazy: 0,
            n_begun: 0,
            in_flight: None,
            streamed_bytes: 0,
        })
    }

    /// How much of the budget is to be used, for any thread to change.
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }

    /// Whether [`adapt`](Self::adapt) has something to do.
    pub(crate) fn has_to_adapt(&self) -> bool {
        self.planned_bytes != Some(self.allowance.bytes())
    }

    /// Plans anew for what is allowed now. Nothing may be computing but with `in_use`, a layer that keeps its weights for
    /// the time being. `holders` are all others that may have weights, and `next` is the bundle that will be asked for.
    /// Experts, if there are any, do without memory first.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the system gives no memory or no thread.
    pub(crate) fn adapt(
        &mut self,
        in_use: Option<BundleIdx>,
        next: BundleIdx,
        holders: &mut [&mut dyn Holder],
        experts: &mut Option<Experts>,
    ) -> Result<(), ModelError> {
        let allowed_bytes = self.allowance.bytes();
        self.settle()?;
        let given_bytes = match experts {
            Some(experts) => experts.adapt(allowed_bytes)?,
            None => 0,
        };
        let source = Arc::clone(&self.source);
        let Source { bundles, plan: before, .. } = &*source;
        let slots_bytes = before.n_slots as u64 * before.slot_bytes;
        let fixed_bytes = before.total_bytes - before.pinned_bytes - slots_bytes - bundles.small_bytes();
        // A pinned layer that is in use and will not stay is there beside what is planned.
        let in_use_bytes = in_use.map_or(0, |idx| self.bundle(idx).cost_bytes());
        let budget_bytes = allowed_bytes.min(source.budget.total_bytes()) + given_bytes;
        let budget_bytes = budget_bytes.saturating_sub(in_use_bytes).max(before.floor_bytes);
        let speeds = MachineSpeeds::default();
        let plan = bundles.plan(fixed_bytes, budget_bytes, self.prefetch, &speeds);
        let plan = plan.expect("a budget of at least the floor has a plan");
        if self.planned_bytes.replace(allowed_bytes).is_some() && plan == *before {
            return Ok(());
        }
        self.planned_bytes = None;
        tracing::debug!(budget_bytes, plan.pinned_bytes, plan.streamed_bytes, "memory is planned anew");
        // Ends its reads: their slots come back before the pool is gone.
        self.read_ahead = None;
        let mut is_there = vec![false; plan.pinned.len()];
        for holder in holders {
            let BundleIdx(idx) = holder.bundle();
            if !plan.pinned[idx] {
                holder.release();
            }
            is_there[idx] = holder.is_bound();
        }
        if let Some(BundleIdx(idx)) = in_use {
            is_there[idx] = before.pinned[idx];
        }
        drop(source);
        self.replan(plan)?;
        if self.prefetch {
            let ahead = ReadAhead::start(Arc::clone(&self.source), next, |idx| is_there[idx.0])?;
            self.read_ahead = Some(ahead);
        }
        self.planned_bytes = Some(allowed_bytes);
        Ok(())
    }

    /// Replaces the plan and its slots. The old ones go first: there may be no room for both.
    fn replan(&mut self, plan: ResidencyPlan) -> Result<(), ModelError> {
        let Source { bundles, reader, budget, conductor, .. } = &*self.source;
        conductor.replan(bundles, &plan, reader, self.prefetch);
        let (bundles, reader, budget) = (Arc::clone(bundles), Arc::clone(reader), budget.clone());
        let (conductor, no_slots) = (Arc::clone(conductor), SlotPool::new(&budget, 0, 0)?);
        let without_slots = Source { bundles, plan, reader, pool: no_slots, budget, conductor };
        self.source = Arc::new(without_slots);
        let source = Arc::get_mut(&mut self.source).expect("nobody else has it yet");
        let slots = || pool(&source.bundles, &source.plan, &source.budget);
        source.pool = once_there_is_room(&source.reader, SLOT_RETURN, || false, slots)?;
        Ok(())
    }

    /// What of the allowance nobody has a use for: everything stays, and there is more.
    pub(crate) fn spare_bytes(&self) -> u64 {
        let Source { plan, budget, .. } = &*self.source;
        if plan.streamed_bytes > 0 || self.planned_bytes.is_none() {
            return 0;
        }
        self.allowance.bytes().min(budget.total_bytes()).saturating_sub(plan.total_bytes)
    }

    /// Memory of what is spare.
    pub(crate) fn spare_slot(&self, len_bytes: usize) -> Result<Slot, IoError> {
        Slot::alone(&self.source.budget, len_bytes)
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
        self.lazy = None;
        (self.n_lazy, self.n_begun) = (0, 0);
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

    /// A layer has been run: unless it is pinned, its output is begun to be computed. Those of pinned ones are begun together, with
    /// that of the next streamed one, when that has to be waited for, or when they are twice as many as those before: so the
    /// processors have something to do while more are made ready, and few are begun at all.
    pub(crate) fn began(&mut self, idx: BundleIdx, output: &Value) -> Result<(), ModelError> {
        self.n_lazy += 1;
        if !self.is_pinned(idx) || self.n_lazy > 2 * self.n_begun {
            return self.compute(&output.array()?);
        }
        if self.source.plan.streamed_bytes > 0 {
            self.lazy = Some(output.clone());
        }
        Ok(())
    }

    /// Begins to compute `output` and does not wait for it: the next layer is made ready meanwhile. Slots that it computes
    /// with come back when it is done, if nobody else holds their arrays.
    fn compute(&mut self, output: &Array) -> Result<(), ModelError> {
        async_eval([output])?;
        self.lazy = None;
        (self.n_begun, self.n_lazy) = (self.n_lazy, 0);
        self.in_flight = Some(output.clone());
        Ok(())
    }

    /// Begins to compute the next chunk of a prompt, and what a layer leaves `beside` it, and waits for the one before: the
    /// processors go from one to the other.
    pub(crate) fn begin_next<'a>(
        &mut self,
        output: &'a Array,
        beside: impl Iterator<Item = &'a Array>,
    ) -> Result<(), ModelError> {
        let before = self.in_flight.take();
        async_eval(beside)?;
        self.compute(output)?;
        if let Some(before) = before {
            before.eval()?;
        }
        Ok(())
    }

    /// Waits until nothing computes that could.
    pub(crate) fn settle(&mut self) -> Result<(), ModelError> {
        if let Some(lazy) = self.lazy.take() {
            self.compute(&lazy.array()?)?;
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
            source.conductor.waited(idx, begin);
            return match load {
                Ok(load) => load.ok_or_else(held),
                Err(error) => Ok(Err(error)),
            };
        }
        self.settle()?;
        let slot = if source.is_pinned(idx) {
            source.lone_slot(idx, || false).map(Some)
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
