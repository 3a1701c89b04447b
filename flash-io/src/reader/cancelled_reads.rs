//! Cancelled bundles whose reads are still in flight.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::fill::Fill;
use crate::sync::Mutex;

/// Cancelled bundles with reads in flight. Each slot returns to its pool when its reads have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelledReads {
    /// Number of bundles.
    pub n_bundles: usize,
    /// Shard of one of the bundles.
    pub path: PathBuf,
    /// Offset in the shard where that bundle begins.
    pub offset: u64,
}

/// Fills that were cancelled before they ended.
#[derive(Debug, Default)]
pub(super) struct CancelledFills(Mutex<Vec<Weak<Fill>>>);

impl CancelledFills {
    /// Adds the fill of a dropped ticket, if a piece of it is pending.
    pub(super) fn add(&self, fill: &Arc<Fill>) {
        if fill.pending_origin().is_some() {
            let mut fills = self.0.lock();
            fills.retain(|fill| fill.upgrade().is_some_and(|fill| fill.pending_origin().is_some()));
            fills.push(Arc::downgrade(fill));
        }
    }

    /// Returns the fills that have not ended; the slots of all others are back in their pools.
    pub(super) fn cancelled_reads(&self) -> Option<CancelledReads> {
        let fills: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        let mut origins = fills.iter().filter_map(|fill| fill.pending_origin());
        let first = origins.next()?;
        let (path, offset) = (first.path.to_path_buf(), first.offset);
        Some(CancelledReads { n_bundles: 1 + origins.count(), path, offset })
    }
}
