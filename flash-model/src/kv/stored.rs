//! Saving a cache to a session, and restoring it.

use std::sync::Arc;

use flash_kv::{
    Chain, Geometry, Identity, KvError, OpenedSession, PAGE_TOKENS, PageFile, PrefixPart, RecordHeader,
    SavedTail, Session, SessionState, TailPart, common_tokens, seal, transcode,
};

use super::one_piece::{copy_page_to_rows, copy_rows_to_page};
use super::plan::sealed_pages;
use super::{KvCache, LayerKv, Store};
use crate::ModelError;

/// A stored context to restore: its token ids, pages and tail.
#[derive(Debug)]
pub(crate) struct Stored {
    pub token_ids: Vec<u32>,
    pages: Arc<PageFile>,
    /// Whether the context was exact when it was last saved.
    was_exact: bool,
    /// The saved window and states; `None` rebuilds the window from sealed pages.
    tail: Option<SavedTail>,
    /// Tokens of whole pages that are dropped, because no state was saved for them.
    pub tokens_without_state: usize,
}

impl Stored {
    /// Chooses the longer of the last save and the whole pages in the file; with recurrent states, the last save or
    /// nothing. Later pages are truncated.
    pub(crate) fn longest(
        session: &Session,
        sealed: &[u32],
        saved: Option<flash_kv::SavedState>,
        has_state: bool,
    ) -> Result<Self, KvError> {
        let pages = Arc::clone(session.pages());
        let geometry = pages.identity().geometry;
        let is_ours = |saved: &flash_kv::SavedState| {
            let n_tokens = saved.token_ids.len();
            (has_state || n_tokens >= sealed.len())
                && saved.tail.first_token() == sealed_pages(&geometry, n_tokens) * PAGE_TOKENS
        };
        // Tokens computed after an inexact state are not exact either.
        let was_exact = saved.as_ref().is_none_or(|saved| saved.is_exact);
        let saved = saved.filter(is_ours);
        let (token_ids, tail) = match saved {
            Some(saved) => (saved.token_ids, Some(saved.tail)),
            None if has_state => (Vec::new(), None),
            None => (sealed.to_vec(), None),
        };
        let common = common_tokens(&token_ids, sealed);
        pages.truncate(common / PAGE_TOKENS)?;
        let tokens_without_state = if has_state { sealed.len().saturating_sub(token_ids.len()) } else { 0 };
        Ok(Self { token_ids, pages, was_exact, tail, tokens_without_state })
    }

    /// Returns whether this is the last save.
    pub(crate) fn is_saved(&self) -> bool {
        self.tail.is_some()
    }

    /// Returns whether the restored cache has the same bits as one that was never stored.
    pub(crate) fn is_exact(&self) -> bool {
        let geometry = &self.pages.identity().geometry;
        let keeps_bits = self.is_saved()
            || geometry.layout() == geometry.window_layout()
            || self.n_sealed() == self.n_pages();
        keeps_bits && self.was_exact
    }

    /// Returns the number of sealed pages.
    fn n_sealed(&self) -> usize {
        sealed_pages(&self.pages.identity().geometry, self.token_ids.len())
    }

    fn n_pages(&self) -> usize {
        self.token_ids.len() / PAGE_TOKENS
    }

    fn read(&self, page_idx: usize, layer_idx: usize, record: &mut [u8]) -> Result<(), ModelError> {
        self.pages.read(page_idx as u32, layer_idx as u32, record)?;
        Ok(())
    }
}

impl KvCache {
    /// Replaces the contents of the cache with a stored context. With `is_own`, its pages are already in the cache's
    /// file.
    pub(crate) fn restore(&mut self, stored: &Stored, is_own: bool) -> Result<(), ModelError> {
        if is_own {
            return self.take(stored, is_own);
        }
        self.truncate(0)?;
        let taken = self.take(stored, is_own);
        if taken.is_err() {
            self.truncate(0)?;
        }
        taken
    }

    fn take(&mut self, stored: &Stored, is_own: bool) -> Result<(), ModelError> {
        let tokens = stored.token_ids.len();
        let window_tokens = stored.n_sealed() * PAGE_TOKENS..tokens;
        let sealed = stored.pages.layout().clone();
        let window = stored.pages.identity().geometry.window_layout();
        let state_bytes = self.state_bytes();
        if let Some(tail) = &stored.tail {
            tail.expect_states(&state_bytes)?;
        }
        let mut rows = vec![0; stored.tail.as_ref().map_or(0, SavedTail::layer_bytes)];
        let mut record = vec![0; sealed.record_bytes()];
        let mut page_rows = vec![0; sealed.parts().count() * sealed.n_rows() * sealed.row_bytes()];
        match &mut self.store {
            Store::Paged(pages) => pages.append_tokens(0, &stored.token_ids),
            Store::Plain(tail) => {
                tail.append(tokens)?;
            }
        }
        if let Some(tail) = &stored.tail {
            let states = self.layers.iter_mut().filter(|layer| layer.state_bytes().is_some());
            for ((state_idx, layer), bytes) in (0..).zip(states).zip(state_bytes) {
                let mut state = vec![0; bytes];
                tail.read(TailPart::State(state_idx), &mut state)?;
                layer.fill_state(&state)?;
            }
        }
        for (layer_idx, layer) in self.kv_layers().into_iter().enumerate() {
            if let Some(tail) = &stored.tail {
                tail.read(TailPart::Layer(layer_idx as u32), &mut rows)?;
            }
            let Some(layer) = layer.paged() else {
                // A contiguous cache stores sealed pages like the window.
                let from_pages = if stored.is_saved() { stored.n_sealed() } else { stored.n_pages() };
                for page_idx in 0..from_pages {
                    stored.read(page_idx, layer_idx, &mut record)?;
                    let tokens = page_idx * PAGE_TOKENS..(page_idx + 1) * PAGE_TOKENS;
                    copy_page_to_rows(&sealed, tokens.clone(), &record, &mut page_rows);
                    layer.fill_rows(&sealed, tokens, &page_rows)?;
                }
                if stored.is_saved() {
                    layer.fill_rows(&sealed, window_tokens.clone(), &rows)?;
                }
                continue;
            };
            let mut layer = layer.lock();
            for page_idx in 0..stored.n_sealed() {
                if is_own {
                    layer.adopt_from_file()?;
                } else {
                    layer.adopt(|record| stored.read(page_idx, layer_idx, record))?;
                }
            }
            if stored.tail.is_some() {
                layer.fill_rows(window_tokens.clone(), &rows);
            } else {
                for page_idx in stored.n_sealed()..stored.n_pages() {
                    stored.read(page_idx, layer_idx, &mut record)?;
                    transcode(&sealed, &record, &window, layer.window_page(page_idx))?;
                }
            }
            layer.finish_restore(tokens);
        }
        self.token_ids.clone_from(&stored.token_ids);
        (self.held_tokens, self.stored_tokens) = (tokens, tokens);
        self.stored_exactly = stored.is_exact();
        Ok(())
    }

    /// Saves the cache to the session whose file its pages are written to.
    pub(crate) fn save(&mut self, session: &mut Session) -> Result<(), ModelError> {
        let Store::Paged(pages) = &self.store else { unreachable!("the cache of a session is paged") };
        self.seal_due()?;
        pages.flush()?;
        self.save_rest(session)
    }

    /// Saves the cache to another session, whose file shares the first `common` pages.
    pub(crate) fn save_to(&mut self, session: &mut Session, common: usize) -> Result<(), ModelError> {
        self.seal_due()?;
        let file = Arc::clone(session.pages());
        let Identity { geometry, .. } = *file.identity();
        let n_sealed = sealed_pages(&geometry, self.held_tokens);
        let common = common.min(n_sealed);
        file.truncate(common)?;
        let mut record = vec![0; file.layout().record_bytes()];
        let layout = file.layout();
        let mut page_rows = vec![0; layout.parts().count() * layout.n_rows() * layout.row_bytes()];
        let root = Chain::root(file.identity());
        // The hash of the prefix before each page.
        let chains = std::iter::once(root).chain(Chain::pages(file.identity(), self.held()));
        let chains: Vec<_> = chains.take(n_sealed).enumerate().skip(common).collect();
        for (page_idx, before) in chains {
            let token_ids = self.held().as_chunks().0[page_idx];
            for (layer_idx, layer) in self.kv_layers().into_iter().enumerate() {
                match layer.paged() {
                    Some(layer) => layer.lock().copy(page_idx, PrefixPart::Page, &mut record)?,
                    None => {
                        let tokens = page_idx * PAGE_TOKENS..(page_idx + 1) * PAGE_TOKENS;
                        layer.copy_rows(file.layout(), tokens.clone(), &mut page_rows)?;
                        copy_rows_to_page(file.layout(), tokens, &page_rows, &mut record);
                    }
                }
                // Also overwrites the header of a copied page: pages of a run without a session have no model id.
                let (page_idx, layer_idx) = (page_idx as u32, layer_idx as u32);
                let format = geometry.format;
                seal(&mut record, &RecordHeader { format, page_idx, layer_idx, before, token_ids });
                file.write(page_idx, layer_idx, &record)?;
            }
        }
        self.save_rest(session)
    }

    /// Seals the pages that have left the window, as the next token would.
    fn seal_due(&self) -> Result<(), ModelError> {
        self.paged_layers().try_for_each(|layer| layer.lock().seal_due(self.held_tokens))
    }

    /// Returns the bytes of each recurrent state.
    fn state_bytes(&self) -> Vec<usize> {
        self.layers.iter().filter_map(LayerKv::state_bytes).collect()
    }

    /// Saves the tokens, the window and the states.
    fn save_rest(&mut self, session: &mut Session) -> Result<(), ModelError> {
        let geometry: Geometry = session.pages().identity().geometry;
        let layout = geometry.window_layout();
        let first_token = sealed_pages(&geometry, self.held_tokens) * PAGE_TOKENS;
        let tokens = first_token..self.held_tokens;
        let is_exact = self.stored_exactly || self.stored_tokens == 0;
        let state_bytes = self.state_bytes();
        let state = SessionState { token_ids: self.held(), first_token, is_exact, state_bytes: &state_bytes };
        let (states, layers): (Vec<_>, Vec<_>) = self
            .layers
            .iter()
            .filter(|layer| !matches!(layer, LayerKv::Nothing))
            .partition(|layer| layer.state_bytes().is_some());
        let mut failure = None;
        session.save(&state, |part, bytes| {
            let copied = match part {
                TailPart::State(state_idx) => {
                    states[state_idx as usize].copy_state(bytes).map_err(ModelError::from)
                }
                TailPart::Layer(layer_idx) => match layers[layer_idx as usize].paged() {
                    Some(layer) => {
                        layer.lock().copy_rows(tokens.clone(), bytes);
                        Ok(())
                    }
                    None => layers[layer_idx as usize].copy_rows(&layout, tokens.clone(), bytes),
                },
            };
            failure = failure.take().or(copied.err());
        })?;
        failure.map_or(Ok(()), Err)
    }
}

/// Returns the number of whole pages that an opened session and a context have in common.
pub(crate) fn common_pages(opened: &OpenedSession, held: &[u32]) -> usize {
    common_tokens(&opened.sealed.token_ids, held) / PAGE_TOKENS
}
