//! What an engine has done.

use std::time::Duration;

use flash_sched::{ByteRate, Estimates, Limit};

use crate::stream::experts::ExpertTraffic;

/// What an engine has done so far.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Bytes of all weights.
    pub model_bytes: u64,
    /// The cap on memory.
    pub budget_bytes: u64,
    /// The smallest cap that would have worked.
    pub floor_bytes: u64,
    /// Weights that stay in memory.
    pub pinned_bytes: u64,
    /// What the embedding table takes of the budget, beside them; zero as long as it is read by row.
    pub table_bytes: u64,
    /// Weights that were read beside those that are pinned, so far.
    pub streamed_bytes: u64,
    /// Weights that one pass over the model streams; of experts, what a token has read on average.
    pub pass_bytes: u64,
    /// Time that computing waited for weights.
    pub stall: Duration,
    /// Time that attention waited for pages of keys and values.
    pub kv_stall: Duration,
    /// What was done with experts, if there are any.
    pub experts: Option<ExpertTraffic>,
    /// Bytes of pages that were read from the disk.
    pub kv_read_bytes: u64,
    /// Bytes of pages that were written to it.
    pub kv_written_bytes: u64,
    /// Reads that were repeated after an error.
    pub retries: u64,
    /// Time that sealing pages took of computing.
    pub kv_sealing: Duration,
    /// Time during which the disk was read from.
    pub reading: Duration,
    /// What the disk gave while it was read from.
    pub disk: Option<ByteRate>,
    /// The usual compute of a single token.
    pub token_compute: Option<Duration>,
    /// What the controller of reads has learned; none if nothing is read ahead.
    pub estimates: Option<Estimates>,
}

impl EngineStats {
    /// What a token costs at least.
    pub fn limit(&self) -> Limit {
        let compute = self.token_compute.unwrap_or_default();
        Limit { compute, streamed_bytes: self.pass_bytes, disk: self.disk }
    }
}
