//! Planning residency anew while the engine runs, when more or less memory is allowed.

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
    /// How much of the budget is to be used, for any thread to change.
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }

    /// Whether [`adapt`](Self::adapt) has something to do.
    pub(crate) fn has_to_adapt(&self) -> bool {
        self.planned_bytes != Some(self.allowance.bytes())
    }

    /// Plans anew for what is allowed now. Nothing may be computing but with `in_use`, a layer that keeps its weights for
    /// the time being. `owners` are all others that may have weights, and `next` is the bundle that will be asked for.
    /// Experts, if there are any, do without memory first.
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

    /// Replaces the plan and its slots. The old ones go first: there may be no room for both.
    fn replan(&mut self, plan: ResidencyPlan) -> Result<(), ModelError> {
        let Source { bundles, reader, budget, feedback, .. } = &*self.source;
        feedback.replan(bundles, &plan, reader, self.prefetch);
        let (bundles, reader, budget) = (Arc::clone(bundles), Arc::clone(reader), budget.clone());
        let (feedback, no_slots) = (Arc::clone(feedback), SlotPool::new(&budget, 0, 0)?);
        let without_slots = Source { bundles, plan, reader, pool: no_slots, budget, feedback };
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
}
