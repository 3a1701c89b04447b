//! What of a budget is not weights.

use std::sync::OnceLock;

use flash_kv::{KvShape, Tail};
use flash_sched::{BelowFloor, ResidencyPlan};

use crate::bundle::{Bundle, Bundles};
use crate::compute::Backend;
use crate::decoder::{CHUNK_TOKENS, Decoder};
use crate::planner::MachineSpeeds;
use crate::{ModelError, memory};

/// The context that every floor holds, so that a short prompt does not change it.
pub const FLOOR_CONTEXT_TOKENS: usize = 256;

/// What the program takes before any weight: code, heap, thread stacks. Measured on Linux at 26 MiB, with a vocabulary of
/// 49,152, when the first tokens have been decoded; this and the next leave a third of it as a margin.
const PROCESS_BYTES: u64 = 28 << 20;
/// What a tokenizer takes for each entry of its vocabulary.
const VOCABULARY_ENTRY_BYTES: u64 = 250;
/// How far the resident set may still grow beyond what it is when the plan is made, apart from what the plan counts: the
/// pages of MLX's code, mostly.
const GROWTH_BYTES: u64 = 12 << 20;

/// The resident set when the first plan of the process was made: measured once, so that a floor that was asked for and
/// the one that a budget is held against are the same.
fn process_at_first_plan() -> u64 {
    static RESIDENT_BYTES: OnceLock<u64> = OnceLock::new();
    *RESIDENT_BYTES.get_or_init(|| memory::resident().map_or(0, |resident| resident.now_bytes))
}

/// What a run will ask of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of the longest prompt.
    pub prompt_tokens: usize,
    /// Tokens that the KV cache must hold: prompt and answer.
    pub context_tokens: usize,
    /// Whether the next bundle is read while one computes, which takes a second slot.
    pub prefetch: bool,
}

/// The parts of a budget that are not streamed or pinned weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryNeeds {
    /// The program itself, with its tokenizer.
    pub process_bytes: u64,
    /// Keys and values.
    pub kv_bytes: u64,
    /// Activations, logits, and what computing takes besides.
    pub activation_bytes: u64,
    /// Weights too small to be worth streaming.
    pub small_weights_bytes: u64,
}

impl MemoryNeeds {
    pub(crate) fn new(
        backend: &Backend,
        decoder: &Decoder,
        bundles: &Bundles,
        kv: KvShape,
        n_layers: usize,
        vocab_size: usize,
        workload: &Workload,
    ) -> Self {
        let context_tokens = workload.context_tokens.max(FLOOR_CONTEXT_TOKENS);
        let prompt_tokens = workload.prompt_tokens.max(CHUNK_TOKENS);
        let usual_bytes = PROCESS_BYTES + VOCABULARY_ENTRY_BYTES * vocab_size as u64;
        let measured_bytes = process_at_first_plan() + GROWTH_BYTES;
        let widened_bytes = bundles.as_slice().iter().map(Bundle::widened_bytes).max().unwrap_or(0);
        let activation_bytes = decoder.activation_bytes(prompt_tokens, context_tokens);
        Self {
            process_bytes: usual_bytes.max(measured_bytes),
            kv_bytes: Tail::budget_bytes(kv, n_layers, context_tokens),
            activation_bytes: activation_bytes + backend.scratch_bytes(widened_bytes, activation_bytes),
            small_weights_bytes: bundles.small_bytes(),
        }
    }

    /// All of them.
    pub fn total_bytes(&self) -> u64 {
        self.process_bytes + self.kv_bytes + self.activation_bytes + self.small_weights_bytes
    }

    /// The residency of `bundles` in a budget.
    pub(crate) fn plan(
        &self,
        bundles: &Bundles,
        workload: &Workload,
        budget_bytes: u64,
        speeds: &MachineSpeeds,
    ) -> Result<ResidencyPlan, ModelError> {
        let fixed_bytes = self.total_bytes() - self.small_weights_bytes;
        let plan = bundles.plan(fixed_bytes, budget_bytes, workload.prefetch, speeds);
        plan.map_err(|BelowFloor { budget_bytes, floor_bytes }| ModelError::BelowFloor {
            budget_bytes,
            floor_bytes,
            context_tokens: workload.context_tokens.max(FLOOR_CONTEXT_TOKENS),
            advice: if workload.prefetch {
                "a shorter context, or no prefetch, lowers it"
            } else {
                "a shorter context lowers it"
            },
        })
    }
}
