//! What is held while a bundle is being read.

use std::sync::Arc;
use std::time::Instant;

use super::fill::Fill;
use super::stragglers::GivenUp;
use crate::catalog::Shard;
use crate::error::IoError;
use crate::pool::Slot;

/// A bundle that is being read into its slot.
///
/// Dropping it without waiting cancels what has not been read; the slot goes back to its pool when the reads under way have
/// ended, and the pause of a chunk that the pacer holds back or that is to be read again.
#[derive(Debug)]
#[must_use = "dropping a ticket cancels its reads"]
pub struct Ticket {
    fill: Arc<Fill>,
    /// What it is read from.
    shards: Vec<Arc<Shard>>,
    given_up: Arc<GivenUp>,
}

impl Ticket {
    pub(super) fn new(fill: Arc<Fill>, shards: Vec<Arc<Shard>>, given_up: Arc<GivenUp>) -> Self {
        Self { fill, shards, given_up }
    }

    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// Whether [`wait`](Self::wait) would return at once, with the slot or with an error.
    pub fn is_done(&self) -> bool {
        self.fill.is_done()
    }

    /// When the last of its reads ended; `None` while one is under way.
    pub fn ended(&self) -> Option<Instant> {
        self.fill.ended()
    }

    /// Waits until it [is done](Self::is_done).
    pub fn wait_until_done(&self) {
        self.fill.wait_until_done();
    }

    /// Waits for all bytes and returns the slot that holds them.
    ///
    /// # Errors
    /// The first error of any chunk: [`IoError::ReadFailed`], [`IoError::ReadPanicked`], or
    /// [`IoError::ReaderClosed`] if the reader was dropped meanwhile; [`IoError::Changed`] if a shard was written to since it
    /// was [opened](Shard::open). The slot is back in its pool then.
    pub fn wait(self) -> Result<Slot, IoError> {
        let slot = self.fill.wait()?;
        self.shards.iter().try_for_each(|shard| shard.check_unchanged())?;
        Ok(slot)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.fill.cancel();
        self.given_up.add(&self.fill);
    }
}
