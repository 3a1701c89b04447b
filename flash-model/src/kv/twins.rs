//! Pages as the window held them, for those who begin behind them.

use std::path::Path;

use flash_kv::{Geometry, Identity, KvError, PrefixPart, PrefixStore, RecordHead, Scratch, seal};

use crate::ModelError;

/// A file of the run with the pages that have left the window, as they were there. It is written at once: a copy to the
/// cache of the system, for each page of a layer.
#[derive(Debug)]
pub(crate) struct Twins {
    scratch: Scratch,
    store: PrefixStore,
}

impl Twins {
    /// None if pages are stored as the window holds them: each is its own twin.
    pub(crate) fn new(kv_dir: &Path, identity: &Identity) -> Result<Option<Self>, ModelError> {
        let store = PrefixStore::open(kv_dir, identity)?;
        if !store.needs_twins() {
            return Ok(None);
        }
        let geometry = Geometry { format: identity.geometry.window_format, ..identity.geometry };
        let scratch = Scratch::new(kv_dir, &Identity { geometry, ..*identity })?;
        Ok(Some(Self { scratch, store }))
    }

    /// Remembers the record of a page, whose head is written.
    pub(super) fn add(&self, head: &RecordHead, record: &mut [u8]) {
        if self.store.holds(head.chain(), PrefixPart::Twin) {
            return;
        }
        seal(record, head);
        // Without it a prefix is not shared, and nothing else is wrong.
        if let Err(error) = self.scratch.pages().write(head.page_idx, head.layer_idx, record) {
            tracing::debug!(%error, "a page is not remembered as the window held it");
        }
    }

    pub(super) fn copy(&self, page_idx: u32, layer_idx: u32, record: &mut [u8]) -> Result<(), KvError> {
        self.scratch.pages().read(page_idx, layer_idx, record).map(drop)
    }
}
