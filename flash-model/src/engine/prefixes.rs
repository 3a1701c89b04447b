//! Reuse of prompt prefixes.

use std::sync::Arc;

use flash_kv::common_tokens;

use super::{Context, Engine};
use crate::ModelError;

impl Context {
    /// Truncates the context to its common prefix with `prompt`, or loads a longer shared prefix of `prompt` in its
    /// place. Returns the number of prompt tokens that are in the context: at most all but one, since the last must be
    /// run to give logits.
    ///
    /// # Errors
    /// The errors of [`truncate`](Self::truncate); [`ModelError::Kv`] or [`ModelError::Io`] if the budget has no room for
    /// the context.
    pub fn reuse(&mut self, prompt: &[u32]) -> Result<usize, ModelError> {
        let contexts = Arc::clone(&self.contexts);
        if let Some(store) = &contexts.prefixes
            && let Some(tokens) = self.kv()?.take_prefix(store, prompt)?
        {
            return Ok(tokens);
        }
        let common = common_tokens(self.held(), prompt);
        self.truncate(common.min(prompt.len().saturating_sub(1)))
    }

    /// Stores the whole pages of the first `tokens` tokens as a shared prefix, if sharing is enabled, for later prompts
    /// that begin with them. Tokens restored from a session are not shared.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the pages cannot be written; the context remains usable.
    pub fn share_prefix(&mut self, tokens: usize) -> Result<(), ModelError> {
        let contexts = Arc::clone(&self.contexts);
        match &contexts.prefixes {
            Some(store) if self.held_tokens() > 0 => self.kv()?.share(store, tokens),
            _ => Ok(()),
        }
    }
}

impl Engine {
    /// [Reuses](Context::reuse) a prefix of `prompt` in the engine's own context.
    ///
    /// # Errors
    /// The errors of [`Context::reuse`].
    pub fn reuse(&mut self, prompt: &[u32]) -> Result<usize, ModelError> {
        self.own().reuse(prompt)
    }

    /// [Shares](Context::share_prefix) the first tokens of the engine's own context.
    ///
    /// # Errors
    /// The errors of [`Context::share_prefix`].
    pub fn share_prefix(&mut self, tokens: usize) -> Result<(), ModelError> {
        self.own().share_prefix(tokens)
    }
}
