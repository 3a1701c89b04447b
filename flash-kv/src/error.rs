//! What can go wrong with a cache.

/// Why the cache could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The context is longer than the cache was made for.
    #[error(
        "the context is full: {held_tokens} of {capacity_tokens} tokens are held, {wanted_tokens} more do not fit"
    )]
    Full {
        /// Tokens in the cache.
        held_tokens: usize,
        /// Tokens that were to be added.
        wanted_tokens: usize,
        /// What the cache was made for.
        capacity_tokens: usize,
    },
    /// Memory for the cache could not be had.
    #[error("no memory for a KV cache of {capacity_tokens} tokens")]
    Memory {
        /// What the cache was to hold.
        capacity_tokens: usize,
        /// What the budget or the system said.
        source: flash_io::IoError,
    },
}
