//! Statistics of experts.

use std::time::Duration;

use super::LookaheadStats;

/// Statistics of experts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct ExpertStats {
    /// Whether all slots are ready. Before that, fewer experts than planned stay in memory.
    pub is_warm: bool,
    /// Expert uses served from memory, counted once per pass and layer.
    pub hits: u64,
    /// Expert uses that had to read the expert.
    pub misses: u64,
    /// Bytes of experts read.
    pub read_bytes: u64,
    /// Expected bytes that a single token reads, from recent passes.
    pub token_read_bytes: u64,
    /// Time that compute stalled for experts.
    pub stall: Duration,
    /// Statistics of expert lookahead.
    pub ahead: LookaheadStats,
}
