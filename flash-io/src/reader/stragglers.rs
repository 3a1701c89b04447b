//! Reads that nobody waits for any more and that have not ended.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::fill::Fill;
use crate::sync::Mutex;

/// Bundles whose tickets are gone while reads into their slots were under way. Each slot comes back when its reads have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stragglers {
    /// How many bundles.
    pub n_bundles: usize,
    /// The shard of one of them.
    pub path: PathBuf,
    /// Offset in the shard where that one begins.
    pub offset: u64,
}

/// Fills that were given up before they had ended.
#[derive(Debug, Default)]
pub(super) struct GivenUp(Mutex<Vec<Weak<Fill>>>);

impl GivenUp {
    /// Adds a fill whose ticket goes, if a piece of it is pending.
    pub(super) fn add(&self, fill: &Arc<Fill>) {
        if fill.pending_origin().is_some() {
            let mut fills = self.0.lock();
            fills.retain(|fill| fill.upgrade().is_some_and(|fill| fill.pending_origin().is_some()));
            fills.push(Arc::downgrade(fill));
        }
    }

    /// Those that have not ended yet. The slots of all others are back.
    pub(super) fn stragglers(&self) -> Option<Stragglers> {
        let fills: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        let mut origins = fills.iter().filter_map(|fill| fill.pending_origin());
        let first = origins.next()?;
        let (path, offset) = (first.path.to_path_buf(), first.offset);
        Some(Stragglers { n_bundles: 1 + origins.count(), path, offset })
    }
}
