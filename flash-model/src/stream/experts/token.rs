//! The schedule for a single token: each expert computes as soon as it has been read.

use std::collections::VecDeque;

use mlx_rs::transforms::async_eval;

use super::{Demand, Experts, Load, PredictedRouting};
use crate::ModelError;
use crate::compute::{ExpertRows, Term, Value};
use crate::nn::expert::Expert;

impl Experts {
    /// Mixes the experts of one token: resident experts first, then the others as they are loaded, and the sum last.
    /// `prefetched` are loads that lookahead has started.
    pub(super) fn mix_token(
        &mut self,
        demand: &Demand<'_>,
        prefetched: Vec<Load>,
        predicted: Option<PredictedRouting<'_>>,
    ) -> Result<Value, ModelError> {
        let Demand { layer_idx, mixture, routes, missing, x, hidden } = *demand;
        let mut loads = VecDeque::from(prefetched);
        for &expert_idx in missing {
            if !loads.iter().any(|load| load.expert_idx == expert_idx) {
                loads.push_back(self.load(mixture, expert_idx, missing.len())?);
            }
        }
        if let Some(predicted) = predicted {
            self.read_ahead(&predicted)?;
        }
        let is_missing = |expert_idx: &usize| missing.contains(expert_idx);
        let resident =
            routes.by_expert.iter().map(|(expert_idx, _)| *expert_idx).filter(|idx| !is_missing(idx));
        let mut computed: Vec<usize> = resident.collect();
        let mut parts: Vec<Value> = Vec::new();
        if !computed.is_empty() {
            let experts: Vec<&Expert> =
                computed.iter().map(|idx| self.resident.expert(layer_idx, *idx)).collect();
            parts.push(self.compute(x, &experts)?);
        }
        while let Some(load) = loads.pop_front() {
            if !load.ticket.is_done() {
                if let Some(part) = parts.last() {
                    part.array()?.eval()?;
                }
                self.wait(&load);
            }
            let mut loaded = vec![(load.expert_idx, self.bind(demand, load)?)];
            while loads.front().is_some_and(|load| load.ticket.is_done()) {
                let load = loads.pop_front().expect("the queue is not empty");
                loaded.push((load.expert_idx, self.bind(demand, load)?));
            }
            computed.extend(loaded.iter().map(|(expert_idx, _)| *expert_idx));
            let experts: Vec<&Expert> = loaded.iter().map(|(_, expert)| expert).collect();
            parts.push(self.compute(x, &experts)?);
        }
        let terms: Vec<Term> = routes.by_token[0]
            .iter()
            .map(|choice| {
                let row = computed.iter().position(|idx| *idx == choice.expert_idx);
                Term { token: 0, row: row.expect("all routed experts were computed"), weight: choice.weight }
            })
            .collect();
        Ok(self.backend.add_rows(hidden, &parts, &terms)?)
    }

    /// Starts computing the outputs of experts for a single token.
    fn compute(&self, x: &Value, experts: &[&Expert]) -> Result<Value, ModelError> {
        let work: Vec<ExpertRows<'_>> =
            experts.iter().map(|expert| ExpertRows { expert: expert.matrices(), tokens: &[0] }).collect();
        let rows = self.backend.expert_rows(x, &work)?;
        async_eval([&rows.array()?])?;
        Ok(rows)
    }
}
