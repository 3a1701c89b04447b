//! The whole embedding table in memory, for budgets that have room for it beside all weights. A lookup then needs no
//! read, which would take longer than everything else between two tokens.

use std::mem::take;

use flash_io::{Reader, Slot, Ticket};

use crate::stream::bundle::{Bundle, Part};
use crate::stream::residency::Residency;

/// Maximum tensors of a table: codes, scales and biases.
pub(super) const TENSORS_MAX: usize = 3;

/// The tensors of the table, as one bundle, and their load state.
#[derive(Debug)]
pub(super) struct Table {
    bundle: Bundle,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Absent,
    Reading(Ticket),
    Loaded(Slot),
    /// A read failed. Lookups fall back to single rows, which report errors of their own.
    Unreadable,
}

impl Table {
    /// Creates a table of at most [`TENSORS_MAX`] tensors, none of which is read yet.
    pub(super) fn new(path: &str, parts: Vec<Part>) -> Self {
        Self { bundle: Bundle::new(path.to_owned(), parts), state: State::Absent }
    }

    /// Returns the cost of the table to the budget, 0 if there is no room for it.
    pub(super) fn planned_bytes(&self, residency: &Residency) -> u64 {
        if self.fits(residency) { self.bundle.cost_bytes() } else { 0 }
    }

    fn fits(&self, residency: &Residency) -> bool {
        self.bundle.cost_bytes() <= residency.spare_bytes()
    }

    /// Returns the bytes of the table once it is loaded, 0 before.
    pub(super) fn held_bytes(&self) -> u64 {
        if matches!(self.state, State::Loaded(_)) { self.bundle.cost_bytes() } else { 0 }
    }

    /// Starts reading the table at the lowest priority if spare memory has room for it, or releases it if not.
    pub(super) fn adapt(&mut self, residency: &Residency) {
        if !self.fits(residency) {
            return self.release(residency.reader());
        }
        self.state = match take(&mut self.state) {
            State::Absent => match residency.spare_slot(self.bundle.slot_bytes()) {
                Ok(slot) => State::Reading(self.bundle.submit_speculative(0, residency.reader(), slot)),
                // Memory that was just released may not have returned to the budget yet: the next pass tries again.
                Err(_) => State::Absent,
            },
            State::Reading(ticket) if ticket.is_done() => match ticket.wait() {
                Ok(slot) => State::Loaded(slot),
                Err(error) => {
                    tracing::warn!(%error, table = self.bundle.name, "the embedding table cannot be loaded; rows are read on demand");
                    State::Unreadable
                }
            },
            state => state,
        };
    }

    /// Releases the table's memory, after reads that are in flight.
    fn release(&mut self, reader: &Reader) {
        match take(&mut self.state) {
            State::Reading(ticket) => reader.give_up(ticket),
            State::Unreadable => self.state = State::Unreadable,
            State::Absent | State::Loaded(_) => {}
        }
    }

    /// Returns the bytes of each tensor, in the order of `parts`, if the table is loaded.
    pub(super) fn tensors(&self) -> Option<[&[u8]; TENSORS_MAX]> {
        let State::Loaded(slot) = &self.state else { return None };
        let mut tensors = [&[][..]; TENSORS_MAX];
        for ((idx, part), tensor) in self.bundle.parts.iter().enumerate().zip(&mut tensors) {
            *tensor = &slot.as_slice()[self.bundle.offset(idx)..][..part.span.len_bytes() as usize];
        }
        Some(tensors)
    }
}
