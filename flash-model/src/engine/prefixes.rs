//! Reuse of prompt prefixes.

use flash_kv::common_tokens;

use super::Engine;
use crate::ModelError;

impl Engine {
    /// Truncates the context to its common prefix with `prompt`, or loads a longer shared prefix of `prompt` in its
    /// place. Returns the number of prompt tokens that are in the cache: at most all but one, since the last must be
    /// run to give logits.
    ///
    /// # Errors
    /// The errors of [`truncate`](Self::truncate).
    pub fn reuse(&mut self, prompt: &[u32]) -> Result<usize, ModelError> {
        if self.prefixes.is_some() {
            self.own()?;
        }
        if let (Some(store), Some(context)) = (&self.prefixes, &mut self.context)
            && let Some(tokens) = context.kv.take_prefix(store, prompt)?
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
    /// [`ModelError::Kv`] if the pages cannot be written; the engine remains usable.
    pub fn share_prefix(&mut self, tokens: usize) -> Result<(), ModelError> {
        match (&self.prefixes, &mut self.context) {
            (Some(store), Some(context)) => context.kv.share(store, tokens),
            _ => Ok(()),
        }
    }
}
