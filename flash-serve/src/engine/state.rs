//! Snapshots of what an engine does.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// A snapshot of an engine, for `/state` and `/metrics`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EngineState {
    /// Models in memory.
    pub resident: Vec<ResidentState>,
    /// Requests that are answered or wait.
    pub requests: Vec<RequestState>,
    /// Requests that may wait before others are refused.
    pub max_waiting: usize,
    /// Memory.
    pub budget: BudgetState,
    /// Sums since the start.
    pub counters: Counters,
}

/// A model in memory.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ResidentState {
    /// Id of the model.
    pub model: String,
    /// Rows of its last pass.
    pub batch_rows: usize,
    /// Its layers, in execution order.
    pub layers: Vec<LayerState>,
}

/// A layer of a model in memory.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LayerState {
    /// Its weights stay in memory.
    pub is_pinned: bool,
    /// Fraction of its weights that are in memory, 0 to 1.
    pub resident_fraction: f32,
    /// It is computed right now.
    pub is_active: bool,
    /// Times that each expert was chosen since the start; empty for a layer without experts.
    pub expert_uses: Vec<u64>,
}

/// A request that is answered or waits.
#[derive(Debug, Clone, Serialize)]
pub struct RequestState {
    /// Number of the request, counted by the engine.
    pub id: u64,
    /// Id of the model.
    pub model: String,
    /// Its phase.
    pub phase: Phase,
    /// Time since it was submitted.
    #[serde(rename = "age_s", serialize_with = "as_seconds")]
    pub age: Duration,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens of its prompt that are done.
    pub prompt_tokens_done: usize,
    /// Generated tokens.
    pub completion_tokens: usize,
}

/// Phase of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits for others or for its model.
    Waiting,
    /// Its prompt is computed.
    Prompt,
    /// Its answer is generated.
    Decode,
    /// It waits for its client to read.
    Paused,
}

/// The memory budget.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BudgetState {
    /// The limit.
    pub total_bytes: u64,
    /// Memory by use, such as `pinned`, `slots`, `kv`.
    pub used_bytes: Vec<(String, u64)>,
}

/// Sums since the start of an engine.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counters {
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were found in a cache.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
    /// Drafted tokens.
    pub draft_tokens: u64,
    /// Drafted tokens that were accepted.
    pub accepted_tokens: u64,
    /// Passes over the weights.
    pub passes: u64,
    /// Rows of all passes.
    pub pass_rows: u64,
    /// Bytes of weights read from disk.
    pub streamed_bytes: u64,
    /// Time that compute waited for weights.
    #[serde(rename = "stall_s", serialize_with = "as_seconds")]
    pub stall: Duration,
    /// Chosen experts.
    pub expert_uses: u64,
    /// Chosen experts that were in memory.
    pub expert_hits: u64,
}

/// The progress of a download.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// The step in progress.
    pub status: String,
    /// Name of the file.
    pub file: Option<String>,
    /// Size of the file.
    pub total_bytes: Option<u64>,
    /// Bytes of it that are there.
    pub completed_bytes: Option<u64>,
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

pub(super) fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::time::rfc3339(*time))
}

pub(super) fn as_optional_rfc3339<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
