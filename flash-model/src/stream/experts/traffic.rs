//! What was done with experts.

use std::time::Duration;

use super::AheadTraffic;

/// What was done with experts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct ExpertTraffic {
    /// All memory that experts have is ready for them; before, fewer than planned stay.
    pub is_warm: bool,
    /// Uses of an expert by a pass that found it in memory.
    pub hits: u64,
    /// Uses that had to read it.
    pub misses: u64,
    /// Bytes of the tensors that were read.
    pub read_bytes: u64,
    /// What of them a single token has read, on average of the last ones.
    pub token_read_bytes: u64,
    /// Time that nothing computed for want of an expert.
    pub stall: Duration,
    /// What was read before anyone asked for it.
    pub ahead: AheadTraffic,
}

/// Of how many tokens, about.
const AVERAGE_TOKENS: f64 = 16.0;

/// An average that forgets.
#[derive(Debug, Default)]
pub(super) struct Average(pub(super) Option<f64>);

impl Average {
    pub(super) fn observe(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |average| average + (value - average) / AVERAGE_TOKENS));
    }
}
