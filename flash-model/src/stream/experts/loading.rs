//! ReadSnapshot the experts that a layer asks for.

use std::time::Instant;

use flash_io::{Slot, Ticket};

use super::{Experts, Mixture};
use crate::ModelError;
use crate::compute::Value;
use crate::memory::slots::{SLOT_RETURN, wait_for};
use crate::nn::expert::Expert;
use crate::nn::router::Routes;
use crate::stream::bundle::Bundle;

/// An expert on its way.
#[derive(Debug)]
pub(super) struct Load {
    pub expert_idx: usize,
    pub bundle: Bundle,
    pub ticket: Ticket,
}

/// A pass through the experts of one layer.
pub(super) struct Demand<'a> {
    pub layer_idx: usize,
    pub mixture: &'a Mixture,
    pub routes: &'a Routes,
    /// The experts that have to be read, in order.
    pub missing: &'a [usize],
    /// What the experts get: `[1, n, hidden]`.
    pub x: &'a Value,
    /// What is added to: `[1, n, hidden]`.
    pub hidden: &'a Value,
}

impl Experts {
    /// Begins to read an expert, one of so many.
    pub(super) fn load(
        &self,
        mixture: &Mixture,
        expert_idx: usize,
        n_to_read: usize,
    ) -> Result<Load, ModelError> {
        // Guesses that were wrong may still be read into theirs.
        let slot = wait_for(&self.reader, SLOT_RETURN, |limit| self.pool.acquire_within(limit));
        let slot = slot.map_err(|source| mixture.bundle(expert_idx).read_error(source))?;
        let slot =
            slot.ok_or_else(|| ModelError::SlotHeld { bundle: mixture.bundle(expert_idx).name.clone() })?;
        Ok(self.submit(mixture, expert_idx, n_to_read, slot))
    }

    pub(super) fn submit(&self, mixture: &Mixture, expert_idx: usize, n_to_read: usize, slot: Slot) -> Load {
        let bundle = mixture.bundle(expert_idx);
        let ticket = bundle.submit_behind(mixture.queued_bytes(n_to_read), &self.reader, slot);
        Load { expert_idx, bundle, ticket }
    }

    /// Waits for an expert when there is nothing else to do.
    pub(super) fn wait(&mut self, load: &Load) {
        let begin = Instant::now();
        load.ticket.wait_until_done();
        self.traffic.stall += begin.elapsed();
    }

    /// The expert of a load that is done; held from now on, if it is to be.
    pub(super) fn bind(&mut self, demand: &Demand<'_>, load: Load) -> Result<Expert, ModelError> {
        let Load { expert_idx, bundle, ticket } = load;
        let slot = ticket.wait().map_err(|source| bundle.read_error(source))?;
        let expert = demand.mixture.bind(&bundle, slot)?;
        self.resident.insert(demand.layer_idx, expert_idx, &expert);
        Ok(expert)
    }
}
