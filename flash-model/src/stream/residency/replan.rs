//! Replanning of residency while the engine runs, when its memory allowance changes.

use std::sync::Arc;

use flash_io::{IoError, Slot, SlotPool};
use flash_sched::ResidencyPlan;

use super::{Residency, pool};
use crate::ModelError;
use crate::memory::allowance::Allowance;
use crate::memory::slots::{SLOT_RETURN, once_there_is_room};
use crate::stream::bundle::BundleIdx;
use crate::stream::experts::Experts;
use crate::stream::planner::MachineSpeeds;
use crate::stream::proxy::WeightOwner;
use crate::stream::read_ahead::{ReadAhead, Source};

impl Residency {
    /// Returns the handle to the allowance, the part of the budget to use, which any thread may change.
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }

    /// Returns whether [`adapt`](Self::adapt) has something to do.
    pub(crate) fn has_to_adapt(&self) -> bool {
        self.planned_bytes != Some(self.allowance.bytes())
    }

    /// Replans for the current allowance. Nothing may be computing except with `in_use`, a layer that keeps its weights
    /// for now. `owners` are all other owners of weights, and `next` is the bundle that will be requested next. Memory
    /// of experts is given back first.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the system gives no memory or no thread.
    pub(crate) fn adapt(
        &mut self,
        in_use: Option<BundleIdx>,
        next: BundleIdx,
        owners: &mut [&mut dyn WeightOwner],
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
        // If the layer in use is no longer pinned, its weights exist beside the new plan.
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
        tracing::debug!(budget_bytes, plan.pinned_bytes, plan.streamed_bytes, "replanned residency");
        // Ends the reads of the old plan, so that their slots return before the pool is dropped.
        self.read_ahead = None;
        let mut is_there = vec![false; plan.pinned.len()];
        for owner in owners {
            let BundleIdx(idx) = owner.bundle();
            if !plan.pinned[idx] {
                owner.release();
            }
            is_there[idx] = owner.is_bound();
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

    /// Replaces the plan and its slots. The old slots are dropped first, since there may be no room for both.
    fn replan(&mut self, plan: ResidencyPlan) -> Result<(), ModelError> {
        let Source { bundles, reader, budget, feedback, .. } = &*self.source;
        feedback.replan(bundles, &plan, reader, self.prefetch);
        let (bundles, reader, budget) = (Arc::clone(bundles), Arc::clone(reader), budget.clone());
        let (feedback, no_slots) = (Arc::clone(feedback), SlotPool::new(&budget, 0, 0)?);
        let without_slots = Source { bundles, plan, reader, pool: no_slots, budget, feedback };
        self.source = Arc::new(without_slots);
        let source = Arc::get_mut(&mut self.source).expect("the only reference to a new source");
        let slots = || pool(&source.bundles, &source.plan, &source.budget);
        source.pool = once_there_is_room(&source.reader, SLOT_RETURN, || false, slots)?;
        Ok(())
    }

    /// Returns the bytes of the allowance that are unused although all weights are pinned.
    pub(crate) fn spare_bytes(&self) -> u64 {
        let Source { plan, budget, .. } = &*self.source;
        if plan.streamed_bytes > 0 || self.planned_bytes.is_none() {
            return 0;
        }
        self.allowance.bytes().min(budget.total_bytes()).saturating_sub(plan.total_bytes)
    }

    /// Allocates a slot from spare memory.
    pub(crate) fn spare_slot(&self, len_bytes: usize) -> Result<Slot, IoError> {
        Slot::unpooled(&self.source.budget, len_bytes)
    }
}
