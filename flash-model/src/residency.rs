//! Residency: which bundles hold data. Here the plan meets the reader.

use std::time::{Duration, Instant};

use flash_io::{Budget, Reader, Slot, SlotPool, Ticket};
use flash_sched::ResidencyPlan;

use crate::ModelError;
use crate::bundle::{Bundle, BundleIdx, Bundles};

/// Loads bundles in execution order, ahead of the layers that need them.
///
/// The order is a cycle: behind the last bundle comes the first one of the next token. A pinned bundle is loaded once;
/// the others pass through the slots, each read as soon as a slot is free.
#[derive(Debug)]
pub struct Residency {
    bundles: Bundles,
    plan: ResidencyPlan,
    states: Vec<State>,
    /// The next bundle to be read.
    next: usize,
    prefetch: bool,
    reader: Reader,
    pool: SlotPool,
    budget: Budget,
    stall: Duration,
    streamed_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// Not in memory.
    Empty,
    /// Being read.
    Loading(Ticket),
    /// With the proxy that computes with it.
    Bound,
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
        prefetch: bool,
    ) -> Result<Self, ModelError> {
        let streamed = bundles.as_slice().iter().zip(&plan.pinned).filter(|(_, pinned)| !**pinned);
        let slot_bytes = streamed.map(|(bundle, _)| bundle.slot_bytes()).max().unwrap_or(0);
        let pool = SlotPool::new(budget, slot_bytes, plan.n_slots)?;
        let states = bundles.as_slice().iter().map(|_| State::Empty).collect();
        let budget = budget.clone();
        Ok(Self {
            bundles,
            plan,
            states,
            next: 0,
            prefetch,
            reader,
            pool,
            budget,
            stall: Duration::ZERO,
            streamed_bytes: 0,
        })
    }

    /// The reader, for small reads beside the bundles.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    pub(crate) fn bundle(&self, idx: BundleIdx) -> &Bundle {
        &self.bundles.as_slice()[idx.0]
    }

    pub(crate) fn is_pinned(&self, idx: BundleIdx) -> bool {
        self.plan.pinned[idx.0]
    }

    /// The bundles, in execution order.
    pub fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    /// Which of them are pinned, and the slots of the others.
    pub fn plan(&self) -> &ResidencyPlan {
        &self.plan
    }

    /// How long computing has waited for reads.
    pub fn stall(&self) -> Duration {
        self.stall
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
        let matching = self
            .bundles
            .as_slice()
            .iter()
            .zip(&self.plan.pinned)
            .filter(|(_, is_pinned)| **is_pinned == pinned);
        matching.map(|(bundle, _)| bundle.tensor_bytes()).sum()
    }

    /// Begins to read the first bundles, if they are prefetched at all.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the budget has no room for a pinned bundle.
    pub fn start(&mut self) -> Result<(), ModelError> {
        if self.prefetch { self.fill() } else { Ok(()) }
    }

    /// Waits for a bundle and hands its slot out, until [`release`](Self::release).
    pub(crate) fn acquire(&mut self, idx: BundleIdx) -> Result<Slot, ModelError> {
        if matches!(self.states[idx.0], State::Empty) {
            self.demand(idx.0)?;
        }
        let State::Loading(ticket) = std::mem::replace(&mut self.states[idx.0], State::Empty) else {
            return Err(ModelError::SlotHeld { bundle: self.bundle(idx).name.clone() });
        };
        let waiting = Instant::now();
        let slot = ticket.wait();
        self.stall += waiting.elapsed();
        let slot = slot.map_err(|source| self.bundle(idx).read_error(source))?;
        self.states[idx.0] = State::Bound;
        if !self.plan.pinned[idx.0] {
            self.streamed_bytes += self.bundle(idx).tensor_bytes();
        }
        Ok(slot)
    }

    /// Takes note that a streamed bundle's slot is free again, and reads ahead.
    pub(crate) fn release(&mut self, idx: BundleIdx) -> Result<(), ModelError> {
        self.states[idx.0] = State::Empty;
        if self.prefetch { self.fill() } else { Ok(()) }
    }

    /// Reads a bundle that nobody foresaw: the first one, one after an error, or each one without prefetch.
    fn demand(&mut self, idx: usize) -> Result<(), ModelError> {
        if !self.plan.pinned[idx] {
            self.forget_streamed();
            self.next = idx;
            if self.prefetch {
                return self.fill();
            }
        }
        self.submit(idx).map(drop)
    }

    /// Gives up what was read ahead, so that its slots are free.
    fn forget_streamed(&mut self) {
        for (state, pinned) in self.states.iter_mut().zip(&self.plan.pinned) {
            if let (State::Loading(_), false) = (&state, pinned)
                && let State::Loading(ticket) = std::mem::replace(state, State::Empty)
            {
                // Waiting brings the slot back; whether the read went well does not matter any more.
                drop(ticket.wait());
            }
        }
    }

    /// Reads ahead, in execution order, as far as there are slots.
    fn fill(&mut self) -> Result<(), ModelError> {
        for _ in 0..self.states.len() {
            let idx = self.next;
            let skip = self.plan.pinned[idx] && !matches!(self.states[idx], State::Empty);
            if !skip && !self.submit(idx)? {
                break;
            }
            self.next = (idx + 1) % self.states.len();
        }
        Ok(())
    }

    /// Begins to read a bundle; false if it has a slot already or there is none for it.
    fn submit(&mut self, idx: usize) -> Result<bool, ModelError> {
        if !matches!(self.states[idx], State::Empty) {
            return Ok(false);
        }
        let bundle = &self.bundles.as_slice()[idx];
        let slot = if self.plan.pinned[idx] {
            Slot::alone(&self.budget, bundle.slot_bytes())?
        } else {
            match self.pool.try_acquire() {
                Some(slot) => slot,
                None => return Ok(false),
            }
        };
        self.states[idx] = State::Loading(bundle.submit(&self.reader, slot));
        Ok(true)
    }
}
