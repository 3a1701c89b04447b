//! Twins: pages in the window's format, kept so that shared prefixes can end in them.

use std::path::Path;
use std::sync::Arc;

use flash_kv::{Geometry, Identity, KvError, PrefixPart, PrefixStore, RecordHeader, Scratch, seal};

use crate::ModelError;

/// A scratch file of pages of all contexts that have left the window, in the window's format. Writes are synchronous: each is a copy to
/// the page cache of the system.
#[derive(Debug)]
pub(crate) struct TwinFile {
    scratch: Scratch,
    store: PrefixStore,
}

/// The places in the file for the twins of one context.
#[derive(Debug)]
pub(crate) struct TwinRegion {
    pub file: Arc<TwinFile>,
    pub first_place: usize,
}

impl TwinFile {
    /// Creates the scratch file; `None` if pages are sealed in the window's format, so that each is its own twin.
    pub(crate) fn new(kv_dir: &Path, identity: &Identity) -> Result<Option<Self>, ModelError> {
        let store = PrefixStore::open(kv_dir, identity)?;
        if !store.needs_twins() {
            return Ok(None);
        }
        let geometry = Geometry { format: identity.geometry.window_format, ..identity.geometry };
        let scratch = Scratch::new(kv_dir, &Identity { geometry, ..*identity })?;
        Ok(Some(Self { scratch, store }))
    }

    /// Writes the header of a page's record and stores it.
    pub(super) fn add(&self, head: &RecordHeader, record: &mut [u8]) {
        if self.store.holds(head.chain(), PrefixPart::Twin) {
            return;
        }
        seal(record, head);
        // Without the twin, a prefix is not shared; nothing else fails.
        if let Err(error) = self.scratch.pages().write(head.page_idx, head.layer_idx, record) {
            tracing::debug!(%error, "a page has no twin, so no prefix ends in it");
        }
    }

    pub(super) fn copy(&self, place: usize, layer_idx: usize, record: &mut [u8]) -> Result<(), KvError> {
        self.scratch.pages().read(place as u32, layer_idx as u32, record).map(drop)
    }
}
