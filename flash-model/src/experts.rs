//! Mixtures of experts: each token takes a few of a layer's experts, and only those are loaded.
//!
//! A layer leaves what its router says ([`Routed`]); [`Experts`] waits for that, loads who is missing, computes with
//! those that are there meanwhile, and adds what all of them make to the layer's output. The sum of a token is always taken
//! in the order of its experts' indices, so it does not matter who came when.

mod gate;
mod mixture;
mod router;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{Budget, IoError, PageBuf, Reader, Slot, SlotPool, Ticket};
use flash_sched::{ExpertCache, Policy, Prediction};
use mlx_rs::Array;
use mlx_rs::transforms::async_eval;

use crate::ModelError;
use crate::bundle::Bundle;
use crate::compute::{Backend, Term, Work};
use crate::planner::MachineSpeeds;
use crate::residency::{SLOT_RETURN, once_slots_are_back};

pub(crate) use gate::Gate;
pub(crate) use mixture::{Expert, ExpertDims, Mixture, Names};
pub(crate) use router::{Router, Routes};

/// Rows that pass through experts at once, where they are many: what is computed for a row is large.
const WAVE_ROWS: usize = 512;

/// What a layer sends to its experts.
#[derive(Debug)]
pub(crate) struct Routed {
    /// What each of them gets: `[1, n, hidden]`.
    pub x: Array,
    /// The router's scores: `[1, n, n_experts]`.
    pub scores: Array,
}

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

    fn n_slots(&self, experts_bytes: u64) -> usize {
        (experts_bytes / self.slot_cost_bytes()) as usize
    }

    fn pool(&self, experts_bytes: u64, budget: &Budget) -> Result<SlotPool, IoError> {
        SlotPool::new(budget, self.slot_bytes, self.n_slots(experts_bytes))
    }

    /// How many stay in memory of experts that take so much.
    pub(crate) fn n_held(&self, experts_bytes: u64) -> usize {
        self.n_slots(experts_bytes).saturating_sub(self.staging_slots).min(self.n_experts)
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

/// What was done with experts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertTraffic {
    /// Uses of an expert by a pass that found it in memory.
    pub hits: u64,
    /// Uses that had to read it.
    pub misses: u64,
    /// Bytes of the tensors that were read.
    pub read_bytes: u64,
    /// What of them a single token has read, on average of the last ones.
    pub token_read_bytes: u64,
    /// Time that nothing computed for want of an expert.
    pub stall: Duration,
}

/// Of how many tokens, about.
const AVERAGE_TOKENS: f64 = 16.0;

/// An average that forgets.
#[derive(Debug, Default)]
struct Average(Option<f64>);

impl Average {
    fn observe(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |average| average + (value - average) / AVERAGE_TOKENS));
    }
}

/// The experts that are in memory, and the way there.
#[derive(Debug)]
pub(crate) struct Experts {
    backend: Backend,
    reader: Arc<Reader>,
    pool: SlotPool,
    cache: ExpertCache,
    /// By layer and index.
    held: HashMap<(usize, usize), Expert>,
    plan: ExpertPlan,
    budget: Budget,
    /// What was planned for them.
    planned_bytes: u64,
    traffic: ExpertTraffic,
    token_read_bytes: Average,
    /// What had been read when the pass began.
    read_bytes_before: u64,
}

/// An expert on its way.
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
    /// `[1, n, hidden]`.
    x: &'a Array,
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
        Ok(Self {
            backend: backend.clone(),
            reader,
            pool: plan.pool(experts_bytes, budget)?,
            cache: ExpertCache::new(&n_experts, plan.n_held(experts_bytes), Policy::default()),
            held: HashMap::new(),
            plan: *plan,
            budget: budget.clone(),
            planned_bytes: experts_bytes,
            traffic: ExpertTraffic::default(),
            token_read_bytes: Average::default(),
            read_bytes_before: 0,
        })
    }

    pub(crate) fn traffic(&self) -> ExpertTraffic {
        ExpertTraffic { token_read_bytes: self.token_read_bytes.0.unwrap_or(0.0) as u64, ..self.traffic }
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
            self.held.clear();
            self.cache.resize(0);
            // The old slots go first: there may be no room for both.
            self.pool = SlotPool::new(&self.budget, 0, 0)?;
            self.pool = once_slots_are_back(|| self.plan.pool(bytes, &self.budget))?;
            self.cache.resize(self.plan.n_held(bytes));
        }
        Ok(self.planned_bytes - bytes)
    }

    /// A pass of so many tokens has gone through all layers.
    pub(crate) fn end_pass(&mut self, n_tokens: usize) {
        let read_bytes = self.traffic.read_bytes - self.read_bytes_before;
        self.read_bytes_before = self.traffic.read_bytes;
        if n_tokens == 1 {
            self.token_read_bytes.observe(read_bytes as f64);
        }
    }

    /// Adds to `hidden`, `[1, n, hidden]`, what the experts make of what was routed to them.
    ///
    /// Waits for the router's scores; the result is being computed when this returns.
    pub(crate) fn mix(
        &mut self,
        layer_idx: usize,
        mixture: &Mixture,
        hidden: &Array,
        routed: &Routed,
    ) -> Result<Array, ModelError> {
        routed.scores.eval()?;
        let scores: &[f32] = routed.scores.try_as_slice().map_err(|error| match error {
            mlx_rs::error::AsSliceError::Exception(error) => error,
            other => mlx_rs::error::Exception::custom(other.to_string()),
        })?;
        let routes = Routes::new(&mixture.router, scores, mixture.dims.n_experts)?;
        let uses = routes.by_expert.iter().map(|(expert_idx, tokens)| (*expert_idx, tokens.len()));
        self.cache.uses(layer_idx, routes.by_token.len(), uses);
        let used = routes.by_expert.iter().map(|(expert_idx, _)| *expert_idx);
        let missing: Vec<usize> =
            used.filter(|expert_idx| !self.cache.is_held(layer_idx, *expert_idx)).collect();
        self.traffic.hits += (routes.by_expert.len() - missing.len()) as u64;
        self.traffic.misses += missing.len() as u64;
        self.traffic.read_bytes += missing.len() as u64 * mixture.expert_bytes();
        // Before anything is read: who is given up makes room.
        for expert_idx in self.cache.keep(layer_idx, &missing) {
            self.held.remove(&(layer_idx, expert_idx));
        }
        let demand = Demand { layer_idx, mixture, routes: &routes, x: &routed.x };
        let mixed = if missing.len() <= self.plan.staging_slots && routes.by_token.len() == 1 {
            self.as_they_come(&demand, &missing, hidden)
        } else {
            self.in_order(&demand, &missing, hidden)
        };
        if mixed.is_err() {
            // Who was to be kept may not have come.
            for expert_idx in missing {
                if !self.held.contains_key(&(layer_idx, expert_idx)) {
                    self.cache.lose(layer_idx, expert_idx);
                }
            }
        }
        mixed
    }

    /// For one token: first those that are there, then the others as they come, and the sum at the end.
    fn as_they_come(
        &mut self,
        demand: &Demand<'_>,
        missing: &[usize],
        hidden: &Array,
    ) -> Result<Array, ModelError> {
        let Demand { layer_idx, mixture, routes, x } = *demand;
        let mut loads = VecDeque::with_capacity(missing.len());
        for &expert_idx in missing {
            loads.push_back(self.load(mixture, expert_idx)?);
        }
        let is_missing = |expert_idx: &usize| missing.contains(expert_idx);
        let there = routes.by_expert.iter().map(|(expert_idx, _)| *expert_idx).filter(|idx| !is_missing(idx));
        let mut done: Vec<usize> = there.collect();
        let mut parts = Vec::new();
        if !done.is_empty() {
            let experts: Vec<&Expert> = done.iter().map(|idx| &self.held[&(layer_idx, *idx)]).collect();
            parts.push(self.compute(x, &experts)?);
        }
        while let Some(load) = loads.pop_front() {
            if !load.ticket.is_done() {
                if let Some(part) = parts.last() {
                    part.eval()?;
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

    /// What experts make of a single token, begun to be computed.
    fn compute(&self, x: &Array, experts: &[&Expert]) -> Result<Array, ModelError> {
        let work: Vec<Work<'_>> = experts.iter().map(|expert| Work { expert, tokens: &[0] }).collect();
        let rows = self.backend.expert_rows(x, &work)?;
        async_eval([&rows])?;
        Ok(rows)
    }

    /// For many tokens: expert by expert, each read once, and what it makes added at once.
    fn in_order(
        &mut self,
        demand: &Demand<'_>,
        missing: &[usize],
        hidden: &Array,
    ) -> Result<Array, ModelError> {
        let Demand { layer_idx, mixture, routes, x } = *demand;
        let mut to_read: VecDeque<usize> = missing.iter().copied().collect();
        let mut loads: VecDeque<Load> = VecDeque::new();
        let mut mixed = hidden.clone();
        for (expert_idx, tokens) in &routes.by_expert {
            while let Some(&next) = to_read.front()
                && let Some(slot) = self.pool.try_acquire()
            {
                to_read.pop_front();
                loads.push_back(self.submit(mixture, next, slot));
            }
            let expert = if missing.binary_search(expert_idx).is_err() {
                self.held[&(layer_idx, *expert_idx)].clone()
            } else {
                let load = match loads.pop_front() {
                    Some(load) => load,
                    None => {
                        to_read.pop_front();
                        self.load(mixture, *expert_idx)?
                    }
                };
                if !load.ticket.is_done() {
                    mixed.eval()?;
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
            async_eval([&mixed])?;
        }
        mixed.eval()?;
        Ok(mixed)
    }

    /// Begins to read an expert.
    fn load(&self, mixture: &Mixture, expert_idx: usize) -> Result<Load, ModelError> {
        let slot = self.pool.acquire_within(SLOT_RETURN);
        let slot =
            slot.ok_or_else(|| ModelError::SlotHeld { bundle: mixture.bundle(expert_idx).name.clone() })?;
        Ok(self.submit(mixture, expert_idx, slot))
    }

    fn submit(&self, mixture: &Mixture, expert_idx: usize, slot: Slot) -> Load {
        let bundle = mixture.bundle(expert_idx);
        let ticket = bundle.submit(&self.reader, slot);
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
        if self.cache.is_held(demand.layer_idx, expert_idx) {
            self.held.insert((demand.layer_idx, expert_idx), expert.clone());
        }
        Ok(expert)
    }
}
