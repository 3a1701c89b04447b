//! Mixtures of experts: each token takes a few of a layer's experts, and only those are loaded.
//!
//! [`Experts::mix`] waits for a layer's router, chooses the experts of each token, and hands the [`Demand`] to one of
//! two schedules: [`few`] computes with each expert as soon as it has been read, [`prompt`] takes one expert after
//! the other. Both sum a token's experts in the order of their indices, so the result does not depend on what was in
//! memory.

mod ahead;
mod few;
mod loading;
mod mixture;
mod plan;
mod prompt;
mod resident;
mod traffic;

use std::sync::Arc;

use flash_io::{Budget, IoError, Reader, SlotPool};
use flash_sched::ExpertReads;
use mlx_rs::transforms::eval;

use crate::ModelError;
use crate::compute::{Backend, Value};
use crate::interrupt::Interrupt;
use crate::memory::slots::{SLOT_RETURN, once_there_is_room};
use crate::nn::expert::Expert;
use crate::nn::layer::Routed;
use crate::nn::router::Routes;

use ahead::ExpertLookahead;
pub use ahead::LookaheadStats;
pub(crate) use ahead::PredictedRouting;
use few::FEW_ROWS;
use loading::{Demand, Load};
pub(crate) use mixture::{ExpertArgs, ExpertDims, MATRICES, Mixture, MixtureArgs, Names};
pub use mixture::{ExpertRows, ExpertTensor};
pub use plan::ExpertInfo;
pub(crate) use plan::ExpertPlan;
use resident::ResidentExperts;
pub use traffic::ExpertStats;

/// Minimum growth of the capacity while slots are still being prepared.
const CAPACITY_STEP: usize = 64;

/// Experts in memory, and the loading of the others.
#[derive(Debug)]
pub(crate) struct Experts {
    backend: Backend,
    reader: Arc<Reader>,
    pool: SlotPool,
    resident: ResidentExperts<Expert>,
    plan: ExpertPlan,
    budget: Budget,
    /// Bytes planned for experts.
    planned_bytes: u64,
    traffic: ExpertStats,
    ahead: ExpertLookahead,
    /// Expected reads of a pass by its rows.
    reads: ExpertReads,
    /// Bytes read before the pass.
    read_bytes_before: u64,
}

impl Experts {
    /// Allocates slots of `experts_bytes` from the budget, for layers with these mixtures.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if they do not fit, [`IoError::Map`] if the system has no memory.
    pub(crate) fn new<'a>(
        backend: &Backend,
        reader: Arc<Reader>,
        mixtures: impl Iterator<Item = Option<&'a Mixture>>,
        plan: &ExpertPlan,
        experts_bytes: u64,
        budget: &Budget,
    ) -> Result<Self, IoError> {
        let mixtures: Vec<_> = mixtures.collect();
        let n_experts: Vec<usize> =
            mixtures.iter().map(|mixture| mixture.map_or(0, |mixture| mixture.dims.n_experts)).collect();
        // Layers of a model are alike.
        let first = mixtures.into_iter().flatten().next();
        let reads = first.map_or_else(ExpertReads::default, |mixture| {
            ExpertReads::new(mixture.dims.n_experts, mixture.router.top_k)
        });
        let mut experts = Self {
            backend: backend.clone(),
            reader,
            pool: plan.pool(experts_bytes, budget)?,
            resident: ResidentExperts::new(&n_experts),
            plan: *plan,
            budget: budget.clone(),
            planned_bytes: experts_bytes,
            traffic: ExpertStats::default(),
            ahead: ExpertLookahead::default(),
            reads,
            read_bytes_before: 0,
        };
        experts.grow_capacity();
        Ok(experts)
    }

    /// Raises the capacity to the slots that are ready, if there are many more than before.
    fn grow_capacity(&mut self) {
        let (capacity, n_ready) = (self.resident.capacity(), self.plan.n_held_in(&self.pool));
        // In steps, because sharing out places among layers takes as long as a small kernel.
        if n_ready > capacity && (self.is_warm() || n_ready >= capacity + CAPACITY_STEP) {
            self.resident.resize(n_ready);
        }
    }

    /// Returns whether all slots are ready.
    fn is_warm(&self) -> bool {
        self.pool.ready_slots() == self.pool.n_slots()
    }

    pub(crate) fn traffic(&self) -> ExpertStats {
        let token_read_bytes = self.reads.bytes(1);
        ExpertStats { token_read_bytes, ahead: self.ahead.traffic(), is_warm: self.is_warm(), ..self.traffic }
    }

    /// Returns the expected reads of a pass by its rows.
    pub(crate) fn reads(&self) -> &ExpertReads {
        &self.reads
    }

    /// Returns whether [`mix`](Self::mix) makes use of a predicted routing.
    pub(crate) fn looks_ahead(&self) -> bool {
        self.ahead.is_enabled() && self.plan.ahead_slots(self.pool.n_slots()) > 0
    }

    /// Adapts the slots to the allowance, as far as experts can do without memory, and returns the bytes below the
    /// original plan. No kernel may be reading an expert.
    ///
    /// All experts are evicted and read again when used: memory is rarely short.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if slots do not return, [`IoError::Map`] if the system has no memory.
    pub(crate) fn adapt(&mut self, allowed_bytes: u64) -> Result<u64, IoError> {
        let missing_bytes = self.budget.total_bytes().saturating_sub(allowed_bytes);
        let bytes = self.plan.bytes_of(self.planned_bytes.saturating_sub(missing_bytes));
        let bytes = bytes.min(self.planned_bytes);
        if self.plan.n_slots(bytes) != self.pool.n_slots() {
            tracing::debug!(bytes, "replanned the memory of experts");
            self.resident.resize(0);
            self.ahead.clear(&self.reader);
            // The old slots are dropped first, since there may be no room for both.
            self.pool = SlotPool::new(&self.budget, 0, 0)?;
            let slots = || self.plan.pool(bytes, &self.budget);
            self.pool = once_there_is_room(&self.reader, SLOT_RETURN, || false, slots)?;
            self.grow_capacity();
        }
        Ok(self.planned_bytes - bytes)
    }

    /// Begins a pass of `n_tokens`.
    pub(crate) fn begin_pass(&mut self, n_tokens: usize) {
        self.ahead.begin_pass(n_tokens);
    }

    /// Ends a pass of `n_tokens`.
    pub(crate) fn end_pass(&mut self, n_tokens: usize, is_complete: bool) {
        // While the capacity grows, tokens get faster for that reason alone.
        self.ahead.end_pass(is_complete && self.is_warm(), &self.reader);
        let read_bytes = self.traffic.read_bytes - self.read_bytes_before;
        self.read_bytes_before = self.traffic.read_bytes;
        if is_complete && n_tokens <= FEW_ROWS {
            self.reads.observe(n_tokens, read_bytes);
        }
    }

    /// Adds the weighted outputs of the routed experts to `hidden`, which has the shape of the experts' input.
    ///
    /// Waits for the router's logits; the result is being computed when this returns. `predicted` experts of the next
    /// layer are read after the missing ones of this layer.
    pub(crate) fn mix(
        &mut self,
        layer_idx: usize,
        mixture: &Mixture,
        hidden: &Value,
        routed: &Routed,
        predicted: Option<PredictedRouting<'_>>,
        interrupt: &Interrupt,
    ) -> Result<Value, ModelError> {
        self.grow_capacity();
        // Both routings together, so that the host waits once.
        let next = predicted.as_ref().map(|predicted| &predicted.routed);
        eval([routed].into_iter().chain(next).flat_map(Routed::arrays))?;
        let (logits, correction) = routed.scores()?;
        let routes = Routes::new(layer_idx, &mixture.router, logits, correction, mixture.dims.n_experts)?;
        let uses = routes.by_expert.iter().map(|(expert_idx, tokens)| (*expert_idx, tokens.len()));
        self.resident.record_uses(layer_idx, routes.by_token.len(), uses);
        let used = routes.by_expert.iter().map(|(expert_idx, _)| *expert_idx);
        let missing: Vec<usize> =
            used.filter(|expert_idx| !self.resident.is_admitted(layer_idx, *expert_idx)).collect();
        self.traffic.hits += (routes.by_expert.len() - missing.len()) as u64;
        self.traffic.misses += missing.len() as u64;
        self.traffic.read_bytes += missing.len() as u64 * mixture.expert_bytes();
        // Before anything is read, since evicted experts free the slots.
        self.resident.admit(layer_idx, &missing);
        let prefetched = self.ahead.take(layer_idx, &missing, &self.reader);
        let x = &Value::from(&routed.x);
        let demand = Demand { layer_idx, mixture, routes: &routes, missing: &missing, x, hidden };
        let mixed = if routes.by_token.len() <= FEW_ROWS {
            self.mix_few(&demand, prefetched, predicted)
        } else {
            self.mix_prompt(&demand, interrupt)
        };
        if mixed.is_err() {
            // An admitted expert may not have been loaded.
            self.resident.remove_absent(layer_idx, &missing);
        }
        mixed
    }
}
