//! The memory of experts.

use flash_io::{Budget, IoError, PageBuf, SlotPool};
use flash_sched::Prediction;

use super::Mixture;
use crate::stream::planner::MachineSpeeds;

/// Of so many slots that could hold an expert, one may be for guesses: what it costs in hits is little then.
const SLOTS_PER_LOOKAHEAD: usize = 8;
/// What part of a layer's experts is guessed: enough to read until its router speaks, and the rest is known then. Each slot more
/// that reads take in turn is memory that caches have forgotten when it is read into (docs/performance.md).
const LOOKAHEAD_DIVISOR: usize = 2;

/// How much memory experts take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpertPlan {
    pub slot_bytes: usize,
    /// Slots that one layer's demand passes through.
    pub staging_slots: usize,
    /// Experts of all layers.
    pub n_experts: usize,
    /// Their bytes.
    pub total_bytes: u64,
    /// Those that a token takes.
    pub token_bytes: u64,
}

impl ExpertPlan {
    /// For the mixtures of a model; none if there are none.
    pub(crate) fn of<'a>(mixtures: impl Iterator<Item = &'a Mixture>) -> Option<Self> {
        let plan = |mixture: &Mixture| Self {
            slot_bytes: mixture.slot_bytes(),
            // Even a token that takes one expert is better off if the next one is read meanwhile.
            staging_slots: mixture.router.top_k.max(2),
            n_experts: mixture.dims.n_experts,
            total_bytes: mixture.expert_bytes() * mixture.dims.n_experts as u64,
            token_bytes: mixture.expert_bytes() * mixture.router.top_k as u64,
        };
        mixtures.map(plan).reduce(|a, b| Self {
            slot_bytes: a.slot_bytes.max(b.slot_bytes),
            staging_slots: a.staging_slots.max(b.staging_slots),
            n_experts: a.n_experts + b.n_experts,
            total_bytes: a.total_bytes + b.total_bytes,
            token_bytes: a.token_bytes + b.token_bytes,
        })
    }

    /// What a slot costs a budget.
    pub(crate) fn slot_cost_bytes(&self) -> u64 {
        PageBuf::cost_bytes(self.slot_bytes)
    }

    /// The least that experts take.
    pub(crate) fn floor_bytes(&self) -> u64 {
        self.staging_slots as u64 * self.slot_cost_bytes()
    }

    pub(super) fn n_slots(&self, experts_bytes: u64) -> usize {
        (experts_bytes / self.slot_cost_bytes()) as usize
    }

    /// The slots, those that experts pass through first: who stays comes token by token.
    pub(super) fn pool(&self, experts_bytes: u64, budget: &Budget) -> Result<SlotPool, IoError> {
        let n_slots = self.n_slots(experts_bytes);
        SlotPool::warming(budget, self.slot_bytes, n_slots, self.passing_slots(n_slots))
    }

    /// How many of so many slots experts pass through that do not stay.
    fn passing_slots(&self, n_slots: usize) -> usize {
        self.staging_slots + self.ahead_slots(n_slots)
    }

    /// How many of so many slots experts are read into before their layer asks for them: none if all stay in memory anyway, and
    /// few where few do.
    pub(super) fn ahead_slots(&self, n_slots: usize) -> usize {
        let n_spare = n_slots.saturating_sub(self.staging_slots);
        let n_guesses = self.staging_slots.div_ceil(LOOKAHEAD_DIVISOR);
        if n_spare < self.n_experts { n_guesses.min(n_spare / SLOTS_PER_LOOKAHEAD) } else { 0 }
    }

    /// How many stay in memory of experts that take so much.
    pub(crate) fn n_held(&self, experts_bytes: u64) -> usize {
        let n_slots = self.n_slots(experts_bytes);
        n_slots.saturating_sub(self.passing_slots(n_slots)).min(self.n_experts)
    }

    /// How many of them there is room for by now.
    pub(super) fn n_held_in(&self, pool: &SlotPool) -> usize {
        pool.ready_slots().saturating_sub(self.passing_slots(pool.n_slots())).min(self.n_experts)
    }

    /// What experts add to a token, if tokens take all of them alike: the reads of a layer follow its router, and what is in
    /// memory computes beside them.
    pub(crate) fn add_to(&self, prediction: &mut Prediction, experts_bytes: u64, speeds: &MachineSpeeds) {
        let held = self.n_held(experts_bytes) as f64 / self.n_experts.max(1) as f64;
        let of_token = |part: f64| (part * self.token_bytes as f64) as u64;
        let reading = speeds.disk.rate.time_for(of_token(1.0 - held));
        let [there, missing] = [held, 1.0 - held].map(|part| speeds.compute.time_for(of_token(part)));
        prediction.reading += reading;
        prediction.compute += there + missing;
        // Who comes computes beside the reads of those behind it.
        prediction.token += reading.max(there + missing);
    }

    /// What they take if so much is there for them.
    pub(crate) fn bytes_of(&self, available_bytes: u64) -> u64 {
        let n_slots = available_bytes / self.slot_cost_bytes();
        n_slots.clamp(self.staging_slots as u64, (self.staging_slots + self.n_experts) as u64)
            * self.slot_cost_bytes()
    }
}

/// The experts of a model in a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertInfo {
    /// Experts of all layers.
    pub n_experts: usize,
    /// How many stay in memory.
    pub n_held: usize,
    /// Bytes of all.
    pub total_bytes: u64,
    /// Bytes of those that a token takes.
    pub token_bytes: u64,
}

impl ExpertInfo {
    /// Bytes of those that do not stay in memory.
    pub fn missing_bytes(&self) -> u64 {
        self.total_bytes / self.n_experts.max(1) as u64 * (self.n_experts - self.n_held) as u64
    }
}
