//! Statistics of an engine.

use std::time::Duration;

use flash_sched::{ByteRate, Estimates, Limit};

use crate::stream::experts::ExpertStats;

/// Statistics of an engine since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Bytes of all weights.
    pub model_bytes: u64,
    /// The budget: the cap on the memory of the process.
    pub budget_bytes: u64,
    /// The floor: the smallest budget that would have worked.
    pub floor_bytes: u64,
    /// Bytes of pinned weights.
    pub pinned_bytes: u64,
    /// Bytes of the embedding table in memory; zero as long as rows are read on demand.
    pub table_bytes: u64,
    /// Bytes of weights streamed so far, without the pinned ones.
    pub streamed_bytes: u64,
    /// Bytes of weights that a pass streams; for experts, the average bytes read per token.
    pub pass_bytes: u64,
    /// Time that computation waited for weights.
    pub stall: Duration,
    /// Time that attention waited for pages of keys and values.
    pub kv_stall: Duration,
    /// Statistics of experts, if the model has any.
    pub experts: Option<ExpertStats>,
    /// Bytes of KV pages read from disk.
    pub kv_read_bytes: u64,
    /// Bytes of KV pages written to disk.
    pub kv_written_bytes: u64,
    /// Reads that were repeated after an error.
    pub retries: u64,
    /// Computation time spent on sealing pages.
    pub kv_sealing: Duration,
    /// Time during which reads were in progress.
    pub reading: Duration,
    /// Read throughput while reads were in progress.
    pub disk: Option<ByteRate>,
    /// Moving average of a token's computation time.
    pub token_compute: Option<Duration>,
    /// Estimates of the read controller; `None` without prefetching.
    pub estimates: Option<Estimates>,
}

impl EngineStats {
    /// Returns the lower bound on the time of a token.
    pub fn limit(&self) -> Limit {
        let compute = self.token_compute.unwrap_or_default();
        Limit { compute, streamed_bytes: self.pass_bytes, disk: self.disk }
    }
}
