//! Handles to bundles being read.

use std::sync::Arc;
use std::time::Instant;

use super::cancelled_reads::CancelledFills;
use super::fill::Fill;
use crate::catalog::Shard;
use crate::error::IoError;
use crate::pool::Slot;

/// Handle to a bundle that is being read into its slot.
///
/// Dropping it cancels the reads that have not begun. The slot returns to its pool when the reads in flight have ended,
/// and the pauses of chunks that are held by the pacer or will be retried.
#[derive(Debug)]
#[must_use = "dropping a ticket cancels its reads"]
pub struct Ticket {
    fill: Arc<Fill>,
    /// Shards that the bundle is read from.
    shards: Vec<Arc<Shard>>,
    cancelled: Arc<CancelledFills>,
}

impl Ticket {
    pub(super) fn new(fill: Arc<Fill>, shards: Vec<Arc<Shard>>, cancelled: Arc<CancelledFills>) -> Self {
        Self { fill, shards, cancelled }
    }

    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// Returns whether [`wait`](Self::wait) would return at once, with the slot or an error.
    pub fn is_done(&self) -> bool {
        self.fill.is_done()
    }

    /// Returns when the last read ended; `None` while one is pending.
    pub fn ended(&self) -> Option<Instant> {
        self.fill.ended()
    }

    /// Waits until the bundle [is done](Self::is_done).
    pub fn wait_until_done(&self) {
        self.fill.wait_until_done();
    }

    /// Waits until all bytes are read, and returns the slot.
    ///
    /// # Errors
    /// The first error of any chunk: [`IoError::ReadFailed`], [`IoError::ReadPanicked`], or [`IoError::ReaderClosed`]
    /// if the reader was dropped meanwhile; [`IoError::Changed`] if a shard was written to since it was
    /// [opened](Shard::open). The slot has returned to its pool then.
    pub fn wait(self) -> Result<Slot, IoError> {
        let slot = self.fill.wait()?;
        self.shards.iter().try_for_each(|shard| shard.check_unchanged())?;
        Ok(slot)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.fill.cancel();
        self.cancelled.add(&self.fill);
    }
}
