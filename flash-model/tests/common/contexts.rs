//! Engines with several contexts, for tests.

use std::path::Path;

use flash_io::IoMode;
use flash_model::{Checkpoint, Compute, Engine, EngineOptions, KvPolicy, Model, Workload};

/// A model of each family and kind of layer.
pub(crate) const FAMILIES: [&str; 15] = [
    "llama-sliding",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "gemma3-text-q4",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe-q4",
    "gpt_oss",
    "deepseek_v3",
    "nemotron_h-latent-q4",
    "qwen3_5",
    "qwen3_5_moe-q4",
    "qwen3_next",
];

/// Maximum tokens of a context.
const CONTEXT_TOKENS: usize = 384;

/// Rows of a pass that may be tentative.
const TENTATIVE_ROWS: usize = 120;

/// The budget of an engine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Memory {
    /// The smallest that works: weights and pages are streamed.
    Floor,
    /// More than can be used.
    Plenty,
}

pub(crate) fn engine(
    dir: &Path,
    compute: Compute,
    memory: Memory,
    kv: KvPolicy,
    n_contexts: usize,
) -> Engine {
    let workload = Workload::new(CONTEXT_TOKENS, CONTEXT_TOKENS)
        .with_kv(kv)
        .with_contexts(n_contexts)
        .with_tentative_rows(TENTATIVE_ROWS);
    let model = Model::open_on(Checkpoint::open(dir, IoMode::Pread).unwrap(), compute).unwrap();
    let budget_bytes = match memory {
        Memory::Floor => model.floor_bytes(&workload),
        Memory::Plenty => 1 << 40,
    };
    let mut options = EngineOptions::new(budget_bytes, workload);
    options.kv_dir = std::env::temp_dir().join("flash-test-batch");
    model.load(&options).unwrap()
}
