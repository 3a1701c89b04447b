//! Shape and size of tokens in the cache.

/// Tokens per page, the unit of layout and accounting.
///
/// mlx-flash keeps a full-precision window of 128 tokens, so the window advances by exactly one page.
pub const PAGE_TOKENS: usize = 128;

/// Data type of keys and values in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvDtype {
    /// 32-bit floats, as computed.
    F32,
}

impl KvDtype {
    /// Returns the size of one element in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
        }
    }
}

/// Which vectors the cache stores for each token and KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvParts {
    /// A key and a value of equal length.
    #[default]
    KeysAndValues,
    /// Only a key, part of which serves as the value (multi-head latent attention).
    KeysOnly,
}

impl KvParts {
    /// Returns the number of vectors: 2 or 1.
    pub const fn count(self) -> usize {
        match self {
            Self::KeysAndValues => 2,
            Self::KeysOnly => 1,
        }
    }

    /// Returns its code in files.
    pub(crate) const fn tag(self) -> u32 {
        match self {
            Self::KeysAndValues => 0,
            Self::KeysOnly => 1,
        }
    }
}

/// Shape of the cache entry of one token in one layer: a key and, unless it is part of the key, a value for each KV
/// head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// KV heads; fewer than query heads with grouped-query attention.
    pub kv_heads: usize,
    /// Elements of one head's key or value.
    pub head_dim: usize,
    /// Whether values are stored separately from keys.
    pub parts: KvParts,
    /// Data type of the elements.
    pub dtype: KvDtype,
}

impl KvShape {
    /// Returns the bytes of one token's keys, or of its values, in one layer.
    pub fn key_token_bytes(&self) -> usize {
        self.kv_heads * self.head_dim * self.dtype.bytes()
    }

    /// Returns the bytes of one token's keys and values in one layer.
    pub fn token_bytes(&self) -> usize {
        self.parts.count() * self.key_token_bytes()
    }

    /// Rounds `tokens` up to whole pages.
    pub fn whole_pages(&self, tokens: usize) -> usize {
        tokens.div_ceil(PAGE_TOKENS) * PAGE_TOKENS
    }
}
