//! Prefix caching: pages shared between prompts.

use flash_kv::{Chain, KvError, PAGE_TOKENS, PrefixPart, PrefixStore, common_tokens};

use super::plan::sealed_pages;
use super::{KvCache, Store};
use crate::ModelError;

impl KvCache {
    /// Restores the longest stored prefix of `prompt`, if it is longer than what the cache could keep. Returns the
    /// tokens held then. The last token of the prompt is never included.
    pub(crate) fn take_prefix(
        &mut self,
        store: &PrefixStore,
        prompt: &[u32],
    ) -> Result<Option<usize>, ModelError> {
        let Some((_, all_but_last)) = prompt.split_last() else { return Ok(None) };
        loop {
            let common = common_tokens(self.held(), all_but_last);
            let found = store.longest(all_but_last);
            let tokens = found.pages() * PAGE_TOKENS;
            if tokens > self.context_tokens() || tokens <= self.rewind_len(common) {
                return Ok(None);
            }
            match self.copy_prefix(store, &prompt[..tokens], &found.chains, common) {
                Ok(()) => return Ok(Some(tokens)),
                Err(error) => {
                    self.forget_all()?;
                    match error {
                        // The prefix was removed by another process, or was damaged and removed: a shorter one may
                        // exist.
                        ModelError::Kv(error @ KvError::Record { .. }) => {
                            tracing::debug!(%error, "a prefix cannot be used");
                        }
                        error => return Err(error),
                    }
                }
            }
        }
    }

    fn forget_all(&mut self) -> Result<(), ModelError> {
        self.paged_layers().try_for_each(|layer| layer.lock().rewind(0))?;
        self.set_held(0)
    }

    /// Copies the pages of `token_ids` from the store. Sealed pages of the first `common` held tokens are kept.
    fn copy_prefix(
        &mut self,
        store: &PrefixStore,
        token_ids: &[u32],
        chains: &[Chain],
        common: usize,
    ) -> Result<(), ModelError> {
        let Store::Paged(pages) = &self.store else {
            unreachable!("prefixes are shared from paged caches only")
        };
        let n_sealed = sealed_pages(&pages.plan.geometry, token_ids.len());
        let held_pages = self.paged_layers().map(|layer| layer.lock().n_sealed()).min().unwrap_or(0);
        let kept = held_pages.min(common / PAGE_TOKENS).min(n_sealed);
        self.paged_layers().try_for_each(|layer| layer.lock().keep_sealed(kept))?;
        pages.truncate_file(kept)?;
        pages.append_tokens(0, token_ids);
        for (layer_idx, layer) in self.paged_layers().enumerate() {
            let mut layer = layer.lock();
            let read = |page_idx: usize, part, record: &mut [u8]| {
                store.read(chains[page_idx], page_idx as u32, layer_idx as u32, part, record)?;
                Ok::<_, ModelError>(())
            };
            for page_idx in kept..n_sealed {
                layer.adopt(|record| read(page_idx, PrefixPart::Page, record))?;
            }
            for page_idx in n_sealed..chains.len() {
                read(page_idx, PrefixPart::Twin, layer.window_page(page_idx))?;
            }
            layer.finish_restore(token_ids.len());
        }
        self.token_ids = token_ids.to_vec();
        self.held_tokens = token_ids.len();
        self.stored_tokens = self.stored_tokens.min(kept * PAGE_TOKENS);
        Ok(())
    }

    /// Stores the whole pages of the first `tokens` tokens as a shared prefix.
    pub(crate) fn share(&self, store: &PrefixStore, tokens: usize) -> Result<(), ModelError> {
        // Tokens restored from a session may have lost precision, so they are not shared.
        let Store::Paged(pages) = &self.store else { return Ok(()) };
        if self.stored_tokens > 0 {
            return Ok(());
        }
        let held = &self.held()[..tokens.min(self.held_tokens)];
        let parts: &[_] =
            if store.needs_twins() { &[PrefixPart::Page, PrefixPart::Twin] } else { &[PrefixPart::Page] };
        let layers: Vec<_> = self.paged_layers().collect();
        for (page_idx, chain) in Chain::pages(&pages.identity, held).enumerate() {
            for part in parts {
                let copy = |layer_idx: u32, record: &mut [u8]| match layers.get(layer_idx as usize) {
                    Some(layer) => layer.lock().copy(page_idx, *part, record),
                    None => unreachable!("prefixes are shared from paged caches only"),
                };
                match store.put(chain, page_idx as u32, *part, copy) {
                    // The page in the window's format is gone, so no prefix can end there.
                    Err(KvError::Record { .. }) if *part == PrefixPart::Twin => {}
                    kept => kept?,
                }
            }
        }
        Ok(())
    }
}
