//! What a token and a page of tokens take.

/// Tokens in a page: the unit in which the cache's memory is laid out and accounted for.
///
/// 128 is the length of the full-precision window that mlx-flash keeps, so a page is what leaves the window at once.
pub const PAGE_TOKENS: usize = 128;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvDtype {
    /// As computed.
    F32,
}

impl KvDtype {
    /// Size of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
        }
    }
}

/// What is kept of a token in each KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Halves {
    /// A key, and a value as long as it.
    #[default]
    KeysAndValues,
    /// A key alone: some of its numbers are the value (multi-head latent attention).
    Keys,
}

impl Halves {
    /// How many there are.
    pub const fn count(self) -> usize {
        match self {
            Self::KeysAndValues => 2,
            Self::Keys => 1,
        }
    }

    /// What stands for it in files.
    pub(crate) const fn tag(self) -> u32 {
        match self {
            Self::KeysAndValues => 0,
            Self::Keys => 1,
        }
    }
}

/// What one token leaves behind in one layer: a key and a value for each KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Heads of keys and values; fewer than query heads with grouped-query attention.
    pub kv_heads: usize,
    /// Numbers in one head's key or value.
    pub head_dim: usize,
    /// Whether values are kept beside keys.
    pub halves: Halves,
    /// How they are stored.
    pub dtype: KvDtype,
}

impl KvShape {
    /// Bytes of one token's key, or of its value, in one layer.
    pub fn half_token_bytes(&self) -> usize {
        self.kv_heads * self.head_dim * self.dtype.bytes()
    }

    /// Bytes of one token's key and value in one layer.
    pub fn token_bytes(&self) -> usize {
        self.halves.count() * self.half_token_bytes()
    }

    /// `tokens` rounded up to whole pages.
    pub fn whole_pages(&self, tokens: usize) -> usize {
        tokens.div_ceil(PAGE_TOKENS) * PAGE_TOKENS
    }
}
