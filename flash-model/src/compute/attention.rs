//! Causal attention between the projections of a layer: positions, the KV cache, the softmax.

use mlx_rs::Array;

use super::{Norm, Rope, Value};

/// Parameters of causal attention.
#[derive(Debug)]
pub(crate) struct AttentionParams {
    pub n_heads: i32,
    /// Each is shared by a group of heads.
    pub n_kv_heads: i32,
    /// Factor of the scores.
    pub scale: f32,
    /// None in layers without positions.
    pub rope: Option<Rope>,
    /// The most recent tokens that a token sees, itself among them; none if it sees all before it.
    pub window: Option<usize>,
    /// Where values are stored inside the keys: the length of a value, which is the end of a key.
    pub value_dim: Option<i32>,
}

/// The norms of each head of queries and keys, applied before rotation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNorms<'a> {
    pub queries: Norm<'a>,
    pub keys: Norm<'a>,
}

/// Projections of the new tokens: `[1, n, heads · head_dim]` each, with KV heads for keys and values. There are no values where
/// they are stored inside the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionInput<'a> {
    pub queries: &'a Value,
    pub keys: &'a Value,
    pub values: Option<&'a Value>,
    pub norms: Option<HeadNorms<'a>>,
    /// `[heads]`: a score that each head's softmax has beside those of the tokens.
    pub sinks: Option<&'a Array>,
    /// Position of the first new token.
    pub position: usize,
}
