//! Loading of the experts that a layer requests.

use std::time::Instant;

use flash_io::{Slot, Ticket};

use super::{Experts, Mixture};
use crate::ModelError;
use crate::compute::Value;
use crate::memory::slots::{SLOT_RETURN, wait_for};
use crate::nn::expert::Expert;
use crate::nn::router::Routes;
use crate::stream::bundle::Bundle;

/// A read of an expert.
#[derive(Debug)]
pub(super) struct Load {
    pub expert_idx: usize,
    pub bundle: Bundle,
    pub ticket: Ticket,
}

/// The experts that one layer requests in a pass.
pub(super) struct Demand<'a> {
    pub layer_idx: usize,
    pub mixture: &'a Mixture,
    pub routes: &'a Routes,
    /// The experts that have to be read, in ascending order.
    pub missing: &'a [usize],
    /// Input of the experts, `[1, n, hidden]`.
    pub x: &'a Value,
    /// Hidden states that the outputs are added to, `[1, n, hidden]`.
    pub hidden: &'a Value,
}

impl Experts {
    /// Starts reading an expert, one of `n_to_read`, once a slot is free.
    pub(super) fn load(
        &self,
        mixture: &Mixture,
        expert_idx: usize,
        n_to_read: usize,
    ) -> Result<Load, ModelError> {
        // Cancelled lookahead reads may still be filling their slots.
        let slot = wait_for(&self.reader, SLOT_RETURN, |limit| self.pool.acquire_within(limit));
        let slot = slot.map_err(|source| mixture.bundle(expert_idx).read_error(source))?;
        let slot =
            slot.ok_or_else(|| ModelError::SlotHeld { bundle: mixture.bundle(expert_idx).name.clone() })?;
        Ok(self.submit(mixture, expert_idx, n_to_read, slot))
    }

    pub(super) fn submit(&self, mixture: &Mixture, expert_idx: usize, n_to_read: usize, slot: Slot) -> Load {
        let bundle = mixture.bundle(expert_idx);
        let ticket = bundle.submit_with_backlog(mixture.queued_bytes(n_to_read), &self.reader, slot);
        Load { expert_idx, bundle, ticket }
    }

    /// Waits for a load, and counts the wait as a stall.
    pub(super) fn wait(&mut self, load: &Load) {
        let begin = Instant::now();
        load.ticket.wait_until_done();
        self.traffic.stall += begin.elapsed();
    }

    /// Binds the expert of a completed load, and makes it resident if it is admitted.
    pub(super) fn bind(&mut self, demand: &Demand<'_>, load: Load) -> Result<Expert, ModelError> {
        let Load { expert_idx, bundle, ticket } = load;
        let slot = ticket.wait().map_err(|source| bundle.read_error(source))?;
        let expert = demand.mixture.bind(&bundle, slot)?;
        self.resident.insert(demand.layer_idx, expert_idx, &expert);
        Ok(expert)
    }
}
