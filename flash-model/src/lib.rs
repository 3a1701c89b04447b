//! Streams language models through MLX: proxies around layers, a residency under a hard budget, text generation.
//!
//! A model goes through four states, each a type:
//!
//! 1. [`Checkpoint`]: a directory whose configuration and headers were read;
//! 2. [`Model`]: layers that fit the checkpoint, and the floor of their memory; still without a weight;
//! 3. [`Engine`]: a budget, slots, reader threads; [`Engine::forward`] takes tokens and gives logits;
//! 4. text, by [`generate()`].
//!
//! ```no_run
//! use flash_io::IoMode;
//! use flash_text::Tokenizer;
//! use flash_model::{Checkpoint, EngineOptions, GenerateOptions, Model, Workload, generate};
//!
//! # fn main() -> Result<(), flash_model::ModelError> {
//! let dir = std::path::Path::new("SmolLM2-135M-Instruct");
//! let model = Model::open(Checkpoint::open(dir, IoMode::Direct)?)?;
//! let tokenizer = Tokenizer::open(dir)?;
//! let prompt = tokenizer.encode_prompt("The capital of France is")?;
//! let workload = Workload::new(prompt.len(), prompt.len() + 20);
//! let mut engine = model.load(&EngineOptions::new(256 << 20, workload))?;
//! let options = GenerateOptions::new(20);
//! generate(&mut engine, &tokenizer, &prompt, &options, |text| print!("{text}"))?;
//! # Ok(())
//! # }
//! ```
//!
//! Builds on Linux and macOS, where MLX is, for processors of 64 bits that are little-endian, as the bytes of a checkpoint are:
//! they become arrays where they lie.

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("flash-model builds on Linux and macOS: there is no MLX elsewhere");
#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!(
    "flash-model builds for little-endian processors of 64 bits: the bytes of a checkpoint become arrays where they lie"
);

mod allowance;
mod arrays;
mod attention;
mod bundle;
mod checkpoint;
mod compute;
mod conduct;
mod config;
mod control;
mod convolution;
mod decoder;
mod embedding;
mod engine;
mod error;
mod experts;
mod fused;
mod gated_delta;
mod generate;
mod head;
mod identity;
mod interrupt;
mod kv;
mod layers;
mod mamba2;
pub mod memory;
mod meter;
mod mlp;
mod mlx;
mod model;
mod models;
mod needs;
mod pace;
mod planner;
mod proxy;
mod read_ahead;
mod record;
mod residency;
mod rope;
pub mod sample;
mod slots;
mod strips;
mod weights;

pub use allowance::Allowance;
pub use bundle::{BundleIdx, BundleInfo, Bundles};
pub use checkpoint::Checkpoint;
pub use compute::{Compute, ComputeOptions};
pub use conduct::Conduct;
pub use config::{Config, QuantizedFormat, QuantizedMode};
pub use engine::{Engine, EngineOptions, EngineStats, Recovery, Resumption, SessionContext};
pub use error::ModelError;
pub use experts::{AheadTraffic, ExpertInfo, ExpertRows, ExpertTensor, ExpertTraffic};
pub use flash_kernels::Isa;
pub use generate::{FinishReason, GenerateOptions, Generation, generate};
pub use kv::{KvFormat, KvPolicy, WINDOW_TOKENS, WhenFull};
pub use model::Model;
pub use needs::{FLOOR_CONTEXT_TOKENS, MemoryNeeds, Workload};
pub use planner::MachineSpeeds;
pub use proxy::StreamingProxy;
pub use record::{Event, EventKind};
pub use residency::Residency;
