//! What of a prompt need not be passed.

use flash_kv::common_tokens;

use super::Engine;
use crate::ModelError;

impl Engine {
    /// Forgets what `prompt` does not begin with, or takes a longer prefix of it from those that are shared; says how many of
    /// its tokens need not be passed again: all but one at most, for one has to pass to give the next.
    ///
    /// # Errors
    /// As [`truncate`](Self::truncate).
    pub fn reuse(&mut self, prompt: &[u32]) -> Result<usize, ModelError> {
        if let Some(store) = &self.prefixes
            && let Some(tokens) = self.kv.take_prefix(store, prompt)?
        {
            return Ok(tokens);
        }
        let common = common_tokens(self.kv.held(), prompt);
        self.truncate(common.min(prompt.len().saturating_sub(1)))
    }

    /// Shares the whole pages of the first `tokens` tokens, if prefixes are shared: later prompts that begin with them need not
    /// pass them. What came from a session is not shared.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if they cannot be written; nothing else is wrong then.
    pub fn share_prefix(&mut self, tokens: usize) -> Result<(), ModelError> {
        match &self.prefixes {
            Some(store) => self.kv.share(store, tokens),
            None => Ok(()),
        }
    }
}
