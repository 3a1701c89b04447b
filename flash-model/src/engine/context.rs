//! Contexts: what one sequence of tokens keeps.

use std::sync::Arc;

use flash_kv::Session;

use crate::ModelError;
use crate::engine::contexts::Region;
use crate::kv::KvCache;

/// The tokens of one sequence, with their keys, values and recurrent states.
///
/// A context belongs to the [`Engine`](crate::Engine) that created it, and gives its memory back to the engine's budget
/// when it is dropped.
#[derive(Debug)]
pub struct Context {
    pub(super) kv: KvCache,
    /// Identifies the engine.
    pub(super) owner: Arc<()>,
    /// Maximum tokens.
    pub(super) max_tokens: usize,
    /// The session that the context is saved in.
    pub(super) session: Option<Session>,
    /// The region of its pages on disk, if they are not those of a session. Dropped after the cache, which writes to it.
    pub(super) _region: Option<Region>,
}

impl Context {
    /// Returns the tokens.
    pub fn held(&self) -> &[u32] {
        self.kv.held()
    }

    /// Returns the number of tokens.
    pub fn held_tokens(&self) -> usize {
        self.kv.held_tokens()
    }

    /// Returns the maximum number of tokens.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Returns the number of tokens of a [tentative](crate::Segment::is_tentative) segment that are neither kept nor taken
    /// back.
    pub fn tentative_tokens(&self) -> usize {
        self.kv.tentative_tokens()
    }

    /// Returns how many tokens a [tentative](crate::Segment::is_tentative) segment of this context may have now: at most a
    /// page, and if the cache consists of pages, at most what is left of its last one.
    pub fn tentative_room(&self) -> usize {
        self.kv.tentative_room().min(self.max_tokens.saturating_sub(self.held_tokens()))
    }

    /// Keeps the first `n_tokens` of the tentative tokens, and takes back the others, without another pass: the context is
    /// as if those had never run.
    ///
    /// # Errors
    /// [`ModelError::Mlx`] if a recurrent state cannot be computed; the context is empty then.
    ///
    /// # Panics
    /// If there are fewer tentative tokens.
    pub fn commit(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        self.kv.commit(n_tokens)
    }

    /// Truncates the context to its first `tokens` tokens, and returns how many are left.
    ///
    /// Removes all tokens if so much of a paged cache has left its window that the following logits would not have the
    /// same bits, if the cache [only grows](crate::KvPolicy::is_append_only) and tokens that the next one attends to
    /// are gone, or if layers have a recurrent state, which cannot be rewound.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the disk has failed.
    pub fn truncate(&mut self, tokens: usize) -> Result<usize, ModelError> {
        self.kv.truncate(tokens)
    }

    /// # Panics
    /// If the context was created by another engine than `owner` identifies.
    pub(super) fn check_owner(&self, owner: &Arc<()>) {
        assert!(Arc::ptr_eq(owner, &self.owner), "a context of this engine");
    }

    /// Checks that there is room for `n_tokens` more tokens.
    pub(super) fn check_room(&self, n_tokens: usize) -> Result<(), ModelError> {
        let prompt_tokens = self.held_tokens() + n_tokens;
        match prompt_tokens > self.max_tokens {
            true => Err(ModelError::PromptTooLong { prompt_tokens, context_tokens: self.max_tokens }),
            false => Ok(()),
        }
    }
}
