//! The whole table in memory, where a budget has room for it when everything else stays: a row is no read then, which takes
//! longer than all that is done between two tokens.

use std::mem::take;

use flash_io::{Reader, Slot, Ticket};

use crate::stream::bundle::{Bundle, Part};
use crate::stream::residency::Residency;

/// Codes, scales and biases.
pub(super) const TENSORS_MAX: usize = 3;

/// The tensors of the table, and where they are.
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
    /// It could not be read. Rows are, one by one, and say why if they cannot.
    Unreadable,
}

impl Table {
    /// Of these tensors, at most [`TENSORS_MAX`], none of which is read.
    pub(super) fn new(path: &str, parts: Vec<Part>) -> Self {
        Self { bundle: Bundle::new(path.to_owned(), parts), state: State::Absent }
    }

    /// What it costs the budget, if there is room for it.
    pub(super) fn planned_bytes(&self, residency: &Residency) -> u64 {
        if self.fits(residency) { self.bundle.cost_bytes() } else { 0 }
    }

    fn fits(&self, residency: &Residency) -> bool {
        self.bundle.cost_bytes() <= residency.spare_bytes()
    }

    /// What it takes, once it is there.
    pub(super) fn held_bytes(&self) -> u64 {
        if matches!(self.state, State::Loaded(_)) { self.bundle.cost_bytes() } else { 0 }
    }

    /// Begins to read it, behind everything else, if there is room for it that nobody will want; gives it up if there is not.
    pub(super) fn adapt(&mut self, residency: &Residency) {
        if !self.fits(residency) {
            return self.release(residency.reader());
        }
        self.state = match take(&mut self.state) {
            State::Absent => match residency.spare_slot(self.bundle.slot_bytes()) {
                Ok(slot) => State::Reading(self.bundle.submit_speculative(0, residency.reader(), slot)),
                // What is given back comes a moment later than what is planned: there is another pass.
                Err(_) => State::Absent,
            },
            State::Reading(ticket) if ticket.is_done() => match ticket.wait() {
                Ok(slot) => State::Loaded(slot),
                Err(error) => {
                    tracing::warn!(%error, table = self.bundle.name, "the embedding is read by row");
                    State::Unreadable
                }
            },
            state => state,
        };
    }

    /// Frees its memory, once reads under way have ended.
    fn release(&mut self, reader: &Reader) {
        match take(&mut self.state) {
            State::Reading(ticket) => reader.give_up(ticket),
            State::Unreadable => self.state = State::Unreadable,
            State::Absent | State::Loaded(_) => {}
        }
    }

    /// The bytes of each tensor, in the order in which they were given, if they are all there.
    pub(super) fn tensors(&self) -> Option<[&[u8]; TENSORS_MAX]> {
        let State::Loaded(slot) = &self.state else { return None };
        let mut tensors = [&[][..]; TENSORS_MAX];
        for ((idx, part), tensor) in self.bundle.parts.iter().enumerate().zip(&mut tensors) {
            *tensor = &slot.as_slice()[self.bundle.offset(idx)..][..part.span.len_bytes() as usize];
        }
        Some(tensors)
    }
}
