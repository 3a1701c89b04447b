//! Arguments of causal attention.

use mlx_rs::Array;

use super::{Norm, Rope, Value};

/// Parameters of causal attention.
#[derive(Debug)]
pub(crate) struct AttentionParams {
    pub n_heads: i32,
    /// Number of KV heads, each shared by a group of query heads.
    pub n_kv_heads: i32,
    /// Softmax scale.
    pub scale: f32,
    /// Rotary embedding; none in layers without positions.
    pub rope: Option<Rope>,
    /// Sliding window: the number of most recent tokens, including itself, that a token attends to; none for full
    /// attention.
    pub window: Option<usize>,
    /// Length of a value if values are stored as the last elements of the keys; none if they are stored separately.
    pub value_dim: Option<i32>,
}

/// Per-head norms of queries and keys, applied before rotation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNorms<'a> {
    pub queries: Norm<'a>,
    pub keys: Norm<'a>,
}

/// Projections of the new tokens of all segments: `[1, n, heads · head_dim]` each, with KV heads for keys and values.
/// Values are none if they are stored inside the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionInput<'a> {
    pub queries: &'a Value,
    pub keys: &'a Value,
    pub values: Option<&'a Value>,
    pub norms: Option<HeadNorms<'a>>,
    /// Attention sinks, `[heads]`: an additional logit in each head's softmax.
    pub sinks: Option<&'a Array>,
}
