//! The schedule for many tokens: expert by expert, each read once.

use std::collections::VecDeque;

use mlx_rs::transforms::async_eval;

use super::{Demand, Experts, Load};
use crate::ModelError;
use crate::compute::{ExpertRows, Term, Value};
use crate::interrupt::Interrupt;

/// Maximum rows per expert call, which bounds the intermediate values.
pub(super) const WAVE_ROWS: usize = 512;

impl Experts {
    /// Mixes the experts of many tokens, one expert after the other: each is read once, and its outputs are added at
    /// once.
    pub(super) fn mix_prompt(
        &mut self,
        demand: &Demand<'_>,
        interrupt: &Interrupt,
    ) -> Result<Value, ModelError> {
        let Demand { layer_idx, mixture, routes, missing, x, hidden } = *demand;
        let mut to_read: VecDeque<usize> = missing.iter().copied().collect();
        let mut loads: VecDeque<Load> = VecDeque::new();
        let mut mixed = hidden.clone();
        for (expert_idx, tokens) in &routes.by_expert {
            if let Err(interrupted) = interrupt.check() {
                // Slots are released when nothing computes with them.
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
                self.resident.expert(layer_idx, *expert_idx).clone()
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
                let rows =
                    self.backend.expert_rows(x, &[ExpertRows { expert: expert.matrices(), tokens }])?;
                let term = |(row, token): (usize, &u32)| {
                    let choices = &routes.by_token[*token as usize];
                    let choice = choices.iter().find(|choice| choice.expert_idx == *expert_idx);
                    let weight = choice.expect("the token is routed to the expert").weight;
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
}
