//! Memory planning for experts.

use flash_io::{Budget, IoError, PageBuf, SlotPool};
use flash_sched::Prediction;

use super::Mixture;
use crate::stream::planner::MachineSpeeds;

/// One in this many spare slots may be used for lookahead, which then costs few cache hits.
const SLOTS_PER_LOOKAHEAD: usize = 8;
/// Lookahead reads one in this many of the experts that a layer loads: enough to keep the disk busy until the router
/// has computed. Every further slot in the rotation is memory that has left the processor's caches by the time it is
/// read into (docs/performance.md).
const LOOKAHEAD_DIVISOR: usize = 2;

/// The memory that a model's experts need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpertPlan {
    pub slot_bytes: usize,
    /// Slots for the experts that one layer loads at once.
    pub staging_slots: usize,
    /// Number of experts in all layers.
    pub n_experts: usize,
    /// Bytes of all experts.
    pub total_bytes: u64,
    /// Bytes of the experts that a token uses.
    pub token_bytes: u64,
}

impl ExpertPlan {
    /// Plans for the mixtures of a model; `None` if there are none.
    pub(crate) fn of<'a>(mixtures: impl Iterator<Item = &'a Mixture>) -> Option<Self> {
        let plan = |mixture: &Mixture| Self {
            slot_bytes: mixture.slot_bytes(),
            // Two even for top-1 routing, so that the next expert is read while one computes.
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

    /// Returns the bytes of a slot in a budget.
    pub(crate) fn slot_cost_bytes(&self) -> u64 {
        PageBuf::cost_bytes(self.slot_bytes)
    }

    /// Returns the minimum bytes for experts.
    pub(crate) fn floor_bytes(&self) -> u64 {
        self.staging_slots as u64 * self.slot_cost_bytes()
    }

    pub(super) fn n_slots(&self, experts_bytes: u64) -> usize {
        (experts_bytes / self.slot_cost_bytes()) as usize
    }

    /// Allocates the slots. Staging and lookahead slots are ready at once; the others are prepared in the background,
    /// since experts fill them token by token.
    pub(super) fn pool(&self, experts_bytes: u64, budget: &Budget) -> Result<SlotPool, IoError> {
        let n_slots = self.n_slots(experts_bytes);
        SlotPool::prefaulting(budget, self.slot_bytes, n_slots, self.passing_slots(n_slots))
    }

    /// Returns how many of `n_slots` are used by experts that do not stay.
    fn passing_slots(&self, n_slots: usize) -> usize {
        self.staging_slots + self.ahead_slots(n_slots)
    }

    /// Returns how many of `n_slots` are used for lookahead: none if all experts stay in memory, and few if few do.
    pub(super) fn ahead_slots(&self, n_slots: usize) -> usize {
        let n_spare = n_slots.saturating_sub(self.staging_slots);
        let n_guesses = self.staging_slots.div_ceil(LOOKAHEAD_DIVISOR);
        if n_spare < self.n_experts { n_guesses.min(n_spare / SLOTS_PER_LOOKAHEAD) } else { 0 }
    }

    /// Returns how many experts stay in memory with `experts_bytes`.
    pub(crate) fn n_held(&self, experts_bytes: u64) -> usize {
        let n_slots = self.n_slots(experts_bytes);
        n_slots.saturating_sub(self.passing_slots(n_slots)).min(self.n_experts)
    }

    /// Returns how many experts the slots that are ready have room for.
    pub(super) fn n_held_in(&self, pool: &SlotPool) -> usize {
        pool.ready_slots().saturating_sub(self.passing_slots(pool.n_slots())).min(self.n_experts)
    }

    /// Adds the time of experts to the prediction of a token, assuming uniform routing: a layer's reads follow its
    /// router, and experts in memory compute meanwhile.
    pub(crate) fn add_to(&self, prediction: &mut Prediction, experts_bytes: u64, speeds: &MachineSpeeds) {
        let held = self.n_held(experts_bytes) as f64 / self.n_experts.max(1) as f64;
        let of_token = |part: f64| (part * self.token_bytes as f64) as u64;
        let reading = speeds.disk.rate.time_for(of_token(1.0 - held));
        let [resident, loaded] = [held, 1.0 - held].map(|part| speeds.compute.time_for(of_token(part)));
        prediction.reading += reading;
        prediction.compute += resident + loaded;
        // A loaded expert computes while the next ones are read.
        prediction.token += reading.max(resident + loaded);
    }

    /// Returns the bytes that experts use of `available_bytes`.
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
    /// Number of experts in all layers.
    pub n_experts: usize,
    /// Number of experts that stay in memory.
    pub n_held: usize,
    /// Bytes of all experts.
    pub total_bytes: u64,
    /// Bytes of the experts that a token uses.
    pub token_bytes: u64,
}

impl ExpertInfo {
    /// Returns the bytes of the experts that do not stay in memory.
    pub fn missing_bytes(&self) -> u64 {
        self.total_bytes / self.n_experts.max(1) as u64 * (self.n_experts - self.n_held) as u64
    }
}
