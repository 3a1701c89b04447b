//! The schedule for few rows: each expert computes as soon as it has been read.

use std::collections::VecDeque;

use mlx_rs::transforms::async_eval;

use super::{Demand, Experts, Load, Mixture, PredictedRouting};
use crate::ModelError;
use crate::compute::{ExpertRows, Term, Value};
use crate::nn::expert::Expert;

/// Maximum rows of this schedule, which holds the outputs of all experts until the last has computed.
pub(super) const FEW_ROWS: usize = 32;

/// Experts whose outputs are being computed, in that order.
#[derive(Default)]
struct Computed {
    /// The experts of each part, and the outputs for their rows, one expert after the other.
    experts: Vec<usize>,
    parts: Vec<Value>,
}

impl Experts {
    /// Mixes the experts of few rows: resident experts first, then the others as they are loaded, and the sums last.
    /// `prefetched` are loads that lookahead has started.
    pub(super) fn mix_few(
        &mut self,
        demand: &Demand<'_>,
        prefetched: Vec<Load>,
        mut predicted: Option<PredictedRouting<'_>>,
    ) -> Result<Value, ModelError> {
        let Demand { layer_idx, mixture, routes, missing, hidden, .. } = *demand;
        let mut loads = VecDeque::from(prefetched);
        let is_loading = |expert_idx: &usize| loads.iter().any(|load| load.expert_idx == *expert_idx);
        let mut to_read: VecDeque<usize> =
            missing.iter().copied().filter(|expert_idx| !is_loading(expert_idx)).collect();
        self.submit_next(mixture, &mut to_read, &mut loads);
        if let Some(predicted) = predicted.take_if(|_| to_read.is_empty()) {
            self.read_ahead(&predicted)?;
        }
        let resident = routes.by_expert.iter().map(|(expert_idx, _)| *expert_idx);
        let resident = resident.filter(|expert_idx| missing.binary_search(expert_idx).is_err());
        let resident: Vec<(usize, &Expert)> =
            resident.map(|idx| (idx, self.resident.expert(layer_idx, idx))).collect();
        let mut computed = Computed::default();
        self.compute(demand, &resident, &mut computed)?;
        while let Some(load) = self.next_load(mixture, &mut to_read, &mut loads)? {
            if !load.ticket.is_done() {
                if let Some(part) = computed.parts.last() {
                    part.array()?.eval()?;
                }
                self.wait(&load);
            }
            let mut loaded = vec![(load.expert_idx, self.bind(demand, load)?)];
            while let Some(load) = loads.pop_front_if(|load| load.ticket.is_done()) {
                loaded.push((load.expert_idx, self.bind(demand, load)?));
            }
            let loaded: Vec<_> = loaded.iter().map(|(expert_idx, expert)| (*expert_idx, expert)).collect();
            self.compute(demand, &loaded, &mut computed)?;
            self.submit_next(mixture, &mut to_read, &mut loads);
            if let Some(predicted) = predicted.take_if(|_| to_read.is_empty()) {
                self.read_ahead(&predicted)?;
            }
        }
        let terms = computed.terms(demand);
        Ok(self.backend.add_rows(hidden, &computed.parts, &terms)?)
    }

    /// Starts reading experts while slots are free.
    fn submit_next(&self, mixture: &Mixture, to_read: &mut VecDeque<usize>, loads: &mut VecDeque<Load>) {
        while let Some(&next) = to_read.front()
            && let Some(slot) = self.pool.try_acquire()
        {
            loads.push_back(self.submit(mixture, next, to_read.len(), slot));
            to_read.pop_front();
        }
    }

    /// Returns the next load: one that was started, or else of the next expert to read once a slot is free.
    fn next_load(
        &self,
        mixture: &Mixture,
        to_read: &mut VecDeque<usize>,
        loads: &mut VecDeque<Load>,
    ) -> Result<Option<Load>, ModelError> {
        if let Some(load) = loads.pop_front() {
            return Ok(Some(load));
        }
        let Some(&next) = to_read.front() else { return Ok(None) };
        let load = self.load(mixture, next, to_read.len())?;
        to_read.pop_front();
        Ok(Some(load))
    }

    /// Starts computing the outputs of experts for their rows.
    fn compute(
        &self,
        demand: &Demand<'_>,
        experts: &[(usize, &Expert)],
        computed: &mut Computed,
    ) -> Result<(), ModelError> {
        if experts.is_empty() {
            return Ok(());
        }
        let work = experts.iter().map(|(expert_idx, expert)| ExpertRows {
            expert: expert.matrices(),
            tokens: demand.routes.tokens_of(*expert_idx),
        });
        let rows = self.backend.expert_rows(demand.x, &work.collect::<Vec<_>>())?;
        async_eval([&rows.array()?])?;
        computed.experts.extend(experts.iter().map(|(expert_idx, _)| *expert_idx));
        computed.parts.push(rows);
        Ok(())
    }
}

impl Computed {
    /// Returns the terms of each row's sum, in the order of its experts.
    fn terms(&self, demand: &Demand<'_>) -> Vec<Term> {
        let routes = demand.routes;
        let mut first_row = 0;
        let mut first_rows = Vec::with_capacity(self.experts.len());
        for expert_idx in &self.experts {
            first_rows.push((*expert_idx, first_row));
            first_row += routes.tokens_of(*expert_idx).len();
        }
        first_rows.sort_unstable();
        let row = |expert_idx: usize, token: usize| {
            let at = first_rows.binary_search_by_key(&expert_idx, |(expert_idx, _)| *expert_idx);
            let (_, first_row) = first_rows[at.expect("all routed experts were computed")];
            let of_expert = routes.tokens_of(expert_idx).binary_search(&(token as u32));
            first_row + of_expert.expect("the token is one of the expert's")
        };
        let tokens = routes.by_token.iter().enumerate();
        let terms = tokens.flat_map(|(token, choices)| choices.iter().map(move |choice| (token, choice)));
        terms
            .map(|(token, choice)| Term { token, row: row(choice.expert_idx, token), weight: choice.weight })
            .collect()
    }
}
