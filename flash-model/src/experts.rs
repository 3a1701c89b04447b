//! Mixtures of experts: each token takes a few of a layer's experts, and only those are loaded.
//!
//! A layer leaves what its router says ([`Routed`]); [`Experts`] waits for that, loads who is missing, computes with
//! those that are there meanwhile, and adds what all of them make to the layer's output. The sum of a token is always taken
//! in the order of its experts' indices, so it does not matter who came when.

mod ahead;
mod gate;
mod held;
mod mixture;
mod plan;
mod router;
mod traffic;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use flash_io::{Budget, IoError, Reader, Slot, SlotPool, Ticket};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::transforms::{async_eval, eval};

use crate::ModelError;
use crate::arrays::values;
use crate::bundle::Bundle;
use crate::compute::{Backend, Term, Value, Work};
use crate::interrupt::Interrupt;
use crate::slots::{SLOT_RETURN, once_there_is_room, wait_for};

use ahead::Ahead;
pub use ahead::AheadTraffic;
pub(crate) use ahead::Foreseen;
pub(crate) use gate::{Gate, GateArgs, Latent};
use held::Held;
pub(crate) use mixture::{Expert, ExpertArgs, ExpertDims, MATRICES, Mixture, MixtureArgs, Names};
pub use mixture::{ExpertRows, ExpertTensor};
pub use plan::ExpertInfo;
pub(crate) use plan::ExpertPlan;
pub(crate) use router::{Groups, Router, Routes, Scoring};
use traffic::Average;
pub use traffic::ExpertTraffic;

/// Rows that pass through experts at once, where they are many: what is computed for a row is large.
const WAVE_ROWS: usize = 512;
/// Experts more that are held at once, while their memory is being made ready.
const HELD_STEP: usize = 64;

/// What a layer sends to its experts.
#[derive(Debug)]
pub(crate) struct Routed {
    /// What each of them gets: `[1, n, hidden]`, or as many numbers as they work on.
    pub x: Array,
    /// What the router makes of each: `[1, n, n_experts]`.
    pub logits: Array,
    /// What is added to the scores of each expert to choose by, f32 `[n_experts]`.
    pub correction: Option<Array>,
}

impl Routed {
    /// What the router said: the logits, and the correction of each expert.
    fn said(&self) -> Result<(&[f32], Option<&[f32]>), Exception> {
        Ok((values(&self.logits)?, self.correction.as_ref().map(values).transpose()?))
    }

    /// All of it, to be evaluated together.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.x, &self.logits].into_iter().chain(&self.correction)
    }
}

/// The experts that are in memory, and the way there.
#[derive(Debug)]
pub(crate) struct Experts {
    backend: Backend,
    reader: Arc<Reader>,
    pool: SlotPool,
    held: Held<Expert>,
    plan: ExpertPlan,
    budget: Budget,
    /// What was planned for them.
    planned_bytes: u64,
    traffic: ExpertTraffic,
    ahead: Ahead,
    token_read_bytes: Average,
    /// What had been read when the pass began.
    read_bytes_before: u64,
}

/// An expert on its way.
#[derive(Debug)]
struct Load {
    expert_idx: usize,
    bundle: Bundle,
    ticket: Ticket,
}

/// A pass through the experts of one layer.
struct Demand<'a> {
    layer_idx: usize,
    mixture: &'a Mixture,
    routes: &'a Routes,
    /// The experts that have to be read, in order.
    missing: &'a [usize],
    /// What the experts get: `[1, n, hidden]`.
    x: &'a Value,
    /// What is added to: `[1, n, hidden]`.
    hidden: &'a Value,
}

impl Experts {
    /// Takes slots of `experts_bytes` from the budget, for layers with these mixtures.
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
        let n_experts: Vec<usize> =
            mixtures.map(|mixture| mixture.map_or(0, |mixture| mixture.dims.n_experts)).collect();
        let mut experts = Self {
            backend: backend.clone(),
            reader,
            pool: plan.pool(experts_bytes, budget)?,
            held: Held::new(&n_experts),
            plan: *plan,
            budget: budget.clone(),
            planned_bytes: experts_bytes,
            traffic: ExpertTraffic::default(),
            ahead: Ahead::default(),
            token_read_bytes: Average::default(),
            read_bytes_before: 0,
        };
        experts.hold_more();
        Ok(experts)
    }

    /// Has as many experts stay as there are slots ready for, if there are many more than before.
    fn hold_more(&mut self) {
        let (n_places, n_ready) = (self.held.n_places(), self.plan.n_held_in(&self.pool));
        // Some for each layer at a time: to share them out takes as long as a small kernel.
        if n_ready > n_places && (self.is_warm() || n_ready >= n_places + HELD_STEP) {
            self.held.resize(n_ready);
        }
    }

    /// Whether all slots are ready.
    fn is_warm(&self) -> bool {
        self.pool.ready_slots() == self.pool.n_slots()
    }

    pub(crate) fn traffic(&self) -> ExpertTraffic {
        let token_read_bytes = self.token_read_bytes.0.unwrap_or(0.0) as u64;
        ExpertTraffic {
            token_read_bytes,
            ahead: self.ahead.traffic(),
            is_warm: self.is_warm(),
            ..self.traffic
        }
    }

    /// Whether [`mix`](Self::mix) has a use for what the next router would say.
    pub(crate) fn looks_ahead(&self) -> bool {
        self.ahead.guesses() && self.plan.ahead_slots(self.pool.n_slots()) > 0
    }

    /// Gives back as much of the budget as is not allowed any more, or takes it again, as far as experts can do without.
    /// Returns what they have less than was planned. Nothing may compute with an expert.
    ///
    /// Those that were held are read again when they are used: memory seldom gets short.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if slots do not come back, [`IoError::Map`] if the system has no memory.
    pub(crate) fn adapt(&mut self, allowed_bytes: u64) -> Result<u64, IoError> {
        let missing_bytes = self.budget.total_bytes().saturating_sub(allowed_bytes);
        let bytes = self.plan.bytes_of(self.planned_bytes.saturating_sub(missing_bytes));
        let bytes = bytes.min(self.planned_bytes);
        if self.plan.n_slots(bytes) != self.pool.n_slots() {
            tracing::debug!(bytes, "memory of experts is planned anew");
            self.held.resize(0);
            self.ahead.clear(&self.reader);
            // The old slots go first: there may be no room for both.
            self.pool = SlotPool::new(&self.budget, 0, 0)?;
            let slots = || self.plan.pool(bytes, &self.budget);
            self.pool = once_there_is_room(&self.reader, SLOT_RETURN, || false, slots)?;
            self.hold_more();
        }
        Ok(self.planned_bytes - bytes)
    }

    /// So many tokens begin to pass.
    pub(crate) fn begin_pass(&mut self, n_tokens: usize) {
        if n_tokens == 1 {
            self.ahead.begin_token();
        }
    }

    /// They have gone through all layers, or failed to.
    pub(crate) fn end_pass(&mut self, n_tokens: usize, is_complete: bool) {
        // While places become more, tokens become faster by themselves.
        self.ahead.end_pass(is_complete && self.is_warm(), &self.reader);
        let read_bytes = self.traffic.read_bytes - self.read_bytes_before;
        self.read_bytes_before = self.traffic.read_bytes;
        if n_tokens == 1 {
            self.token_read_bytes.observe(read_bytes as f64);
        }
    }

    /// Adds to `hidden`, of the shape of what was routed to the experts, what they make of that.
    ///
    /// Waits for the router's logits; the result is being computed when this returns. Experts that are `foreseen` of the next
    /// layer are read behind those of this one.
    pub(crate) fn mix(
        &mut self,
        layer_idx: usize,
        mixture: &Mixture,
        hidden: &Value,
        routed: &Routed,
        foreseen: Option<Foreseen<'_>>,
        interrupt: &Interrupt,
    ) -> Result<Value, ModelError> {
        self.hold_more();
        // Together: the host waits once.
        let next = foreseen.as_ref().map(|foreseen| &foreseen.routed);
        eval([routed].into_iter().chain(next).flat_map(Routed::arrays))?;
        let (logits, correction) = routed.said()?;
        let routes = Routes::new(layer_idx, &mixture.router, logits, correction, mixture.dims.n_experts)?;
        let uses = routes.by_expert.iter().map(|(expert_idx, tokens)| (*expert_idx, tokens.len()));
        self.held.uses(layer_idx, routes.by_token.len(), uses);
        let used = routes.by_expert.iter().map(|(expert_idx, _)| *expert_idx);
        let missing: Vec<usize> = used.filter(|expert_idx| !self.held.has(layer_idx, *expert_idx)).collect();
        self.traffic.hits += (routes.by_expert.len() - missing.len()) as u64;
        self.traffic.misses += missing.len() as u64;
        self.traffic.read_bytes += missing.len() as u64 * mixture.expert_bytes();
        // Before anything is read: who is given up makes room.
        self.held.make_places(layer_idx, &missing);
        let early = self.ahead.take(layer_idx, &missing, &self.reader);
        let x = &Value::from(&routed.x);
        let demand = Demand { layer_idx, mixture, routes: &routes, missing: &missing, x, hidden };
        let mixed = if missing.len() <= self.plan.staging_slots && routes.by_token.len() == 1 {
            self.as_they_come(&demand, early, foreseen)
        } else {
            self.in_order(&demand, interrupt)
        };
        if mixed.is_err() {
            // Who was to be kept may not have come.
            self.held.give_up_absent(layer_idx, &missing);
        }
        mixed
    }

    /// For one token: first those that are there, then the others as they come, and the sum at the end. Some of the others
    /// may be on their way.
    fn as_they_come(
        &mut self,
        demand: &Demand<'_>,
        early: Vec<Load>,
        foreseen: Option<Foreseen<'_>>,
    ) -> Result<Value, ModelError> {
        let Demand { layer_idx, mixture, routes, missing, x, hidden } = *demand;
        let mut loads = VecDeque::from(early);
        for &expert_idx in missing {
            if !loads.iter().any(|load| load.expert_idx == expert_idx) {
                loads.push_back(self.load(mixture, expert_idx, missing.len())?);
            }
        }
        if let Some(foreseen) = foreseen {
            self.read_ahead(&foreseen)?;
        }
        let is_missing = |expert_idx: &usize| missing.contains(expert_idx);
        let there = routes.by_expert.iter().map(|(expert_idx, _)| *expert_idx).filter(|idx| !is_missing(idx));
        let mut done: Vec<usize> = there.collect();
        let mut parts: Vec<Value> = Vec::new();
        if !done.is_empty() {
            let experts: Vec<&Expert> = done.iter().map(|idx| self.held.expert(layer_idx, *idx)).collect();
            parts.push(self.compute(x, &experts)?);
        }
        while let Some(load) = loads.pop_front() {
            if !load.ticket.is_done() {
                if let Some(part) = parts.last() {
                    part.array()?.eval()?;
                }
                self.wait(&load);
            }
            let mut came = vec![(load.expert_idx, self.bind(demand, load)?)];
            while loads.front().is_some_and(|load| load.ticket.is_done()) {
                let load = loads.pop_front().expect("it was just looked at");
                came.push((load.expert_idx, self.bind(demand, load)?));
            }
            done.extend(came.iter().map(|(expert_idx, _)| *expert_idx));
            let experts: Vec<&Expert> = came.iter().map(|(_, expert)| expert).collect();
            parts.push(self.compute(x, &experts)?);
        }
        let terms: Vec<Term> = routes.by_token[0]
            .iter()
            .map(|choice| {
                let row = done.iter().position(|idx| *idx == choice.expert_idx);
                Term { token: 0, row: row.expect("all were computed"), weight: choice.weight }
            })
            .collect();
        Ok(self.backend.add_rows(hidden, &parts, &terms)?)
    }

    /// Begins to read what the next layer would want now and has not, as far as there are slots for that.
    fn read_ahead(&mut self, foreseen: &Foreseen<'_>) -> Result<(), ModelError> {
        let Foreseen { layer_idx, mixture, routed } = foreseen;
        let (logits, correction) = routed.said()?;
        let choices = mixture.router.choose(logits, correction).into_iter().map(|choice| choice.expert_idx);
        let mut missing: Vec<usize> =
            choices.filter(|expert_idx| !self.held.has(*layer_idx, *expert_idx)).collect();
        missing.truncate(self.plan.ahead_slots(self.pool.n_slots()));
        let waiting_bytes = mixture.bytes_beside_one_of(missing.len());
        let mut loads = Vec::new();
        for expert_idx in missing {
            let Some(slot) = self.pool.try_acquire() else { break };
            let bundle = mixture.bundle(expert_idx);
            let ticket = bundle.guess(waiting_bytes, &self.reader, slot);
            loads.push(Load { expert_idx, bundle, ticket });
        }
        self.ahead.guessed(*layer_idx, loads);
        Ok(())
    }

    /// What experts make of a single token, begun to be computed.
    fn compute(&self, x: &Value, experts: &[&Expert]) -> Result<Value, ModelError> {
        let work: Vec<Work<'_>> = experts.iter().map(|expert| Work { expert, tokens: &[0] }).collect();
        let rows = self.backend.expert_rows(x, &work)?;
        async_eval([&rows.array()?])?;
        Ok(rows)
    }

    /// For many tokens: expert by expert, each read once, and what it makes added at once.
    fn in_order(&mut self, demand: &Demand<'_>, interrupt: &Interrupt) -> Result<Value, ModelError> {
        let Demand { layer_idx, mixture, routes, missing, x, hidden } = *demand;
        let mut to_read: VecDeque<usize> = missing.iter().copied().collect();
        let mut loads: VecDeque<Load> = VecDeque::new();
        let mut mixed = hidden.clone();
        for (expert_idx, tokens) in &routes.by_expert {
            if let Err(interrupted) = interrupt.check() {
                // Slots come back when nothing computes with them.
                mixed.array()?.eval()?;
                return Err(interrupted);
            }
            while let Some(&next) = to_read.front()
                && let Some(slot) = self.pool.try_acquire()
            {
                loads.push_back(self.submit(mixture, next, to_read.len(), slot));
                to_read.pop_front();
            }
            let expert = if missing.binary_search(expert_idx).is_err() {
                self.held.expert(layer_idx, *expert_idx).clone()
            } else {
                let load = match loads.pop_front() {
                    Some(load) => load,
                    None => {
                        let load = self.load(mixture, *expert_idx, to_read.len())?;
                        to_read.pop_front();
                        load
                    }
                };
                if !load.ticket.is_done() {
                    mixed.array()?.eval()?;
                    self.wait(&load);
                }
                self.bind(demand, load)?
            };
            for tokens in tokens.chunks(WAVE_ROWS) {
                let rows = self.backend.expert_rows(x, &[Work { expert: &expert, tokens }])?;
                let term = |(row, token): (usize, &u32)| {
                    let choices = &routes.by_token[*token as usize];
                    let choice = choices.iter().find(|choice| choice.expert_idx == *expert_idx);
                    let weight = choice.expect("the expert has this token").weight;
                    Term { token: *token as usize, row, weight }
                };
                let terms: Vec<Term> = tokens.iter().enumerate().map(term).collect();
                mixed = self.backend.add_rows(&mixed, &[rows], &terms)?;
            }
            async_eval([&mixed.array()?])?;
        }
        mixed.array()?.eval()?;
        Ok(mixed)
    }

    /// Begins to read an expert, one of so many.
    fn load(&self, mixture: &Mixture, expert_idx: usize, n_to_read: usize) -> Result<Load, ModelError> {
        // Guesses that were wrong may still be read into theirs.
        let slot = wait_for(&self.reader, SLOT_RETURN, |limit| self.pool.acquire_within(limit));
        let slot = slot.map_err(|source| mixture.bundle(expert_idx).read_error(source))?;
        let slot =
            slot.ok_or_else(|| ModelError::SlotHeld { bundle: mixture.bundle(expert_idx).name.clone() })?;
        Ok(self.submit(mixture, expert_idx, n_to_read, slot))
    }

    fn submit(&self, mixture: &Mixture, expert_idx: usize, n_to_read: usize, slot: Slot) -> Load {
        let bundle = mixture.bundle(expert_idx);
        let ticket = bundle.submit_behind(mixture.bytes_beside_one_of(n_to_read), &self.reader, slot);
        Load { expert_idx, bundle, ticket }
    }

    /// Waits for an expert when there is nothing else to do.
    fn wait(&mut self, load: &Load) {
        let begin = Instant::now();
        load.ticket.wait_until_done();
        self.traffic.stall += begin.elapsed();
    }

    /// The expert of a load that is done; held from now on, if it is to be.
    fn bind(&mut self, demand: &Demand<'_>, load: Load) -> Result<Expert, ModelError> {
        let Load { expert_idx, bundle, ticket } = load;
        let slot = ticket.wait().map_err(|source| bundle.read_error(source))?;
        let expert = demand.mixture.bind(&bundle, slot)?;
        self.held.came(demand.layer_idx, expert_idx, &expert);
        Ok(expert)
    }
}
