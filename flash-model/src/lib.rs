//! Runs language models larger than memory with MLX: weights are streamed from disk layer by layer, within a hard
//! memory budget.
//!
//! A model goes through four states, each a type:
//!
//! 1. [`Checkpoint`]: a model directory whose configuration and tensor headers have been read;
//! 2. [`Model`]: layers that match the checkpoint, and the smallest budget that works (the *floor*); no weights are
//!    loaded;
//! 3. [`Engine`]: a budget, slots, reader threads; [`Engine::forward`] takes tokens and returns logits;
//! 4. text, from [`generate()`].
//!
//! Weights are read in *bundles*, which are loaded together: a layer, a tile of the output head, or one expert. Bundles
//! that the budget has room for are *pinned*; the others are read for each pass, through *slots* of memory.
//!
//! ```no_run
//! use flash_io::IoMode;
//! use flash_text::Tokenizer;
//! use flash_model::{Checkpoint, EngineOptions, GenerateOptions, Model, Workload, generate};
//!
//! # fn main() -> Result<(), flash_model::ModelError> {
//! let dir = std::path::Path::new("SmolLM2-135M-Instruct");
//! let model = Model::open(Checkpoint::open(dir, IoMode::Auto)?)?;
//! let tokenizer = Tokenizer::open(dir)?;
//! let prompt = tokenizer.encode_prompt("The capital of France is")?;
//! // At most 20 tokens are generated, in 256 MiB.
//! let workload = Workload::new(prompt.len(), prompt.len() + 20);
//! let mut engine = model.load(&EngineOptions::new(256 << 20, workload))?;
//! let options = GenerateOptions::new(20);
//! generate(&mut engine, &tokenizer, &prompt, &options, |text| print!("{text}"))?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Engine::pass`] runs tokens of several contexts in one pass over the weights, and [`Batch`] answers many prompts at
//! once that way.
//!
//! Also here: [`sample`], [`draft`] (guesses of the next tokens, which one pass checks together), [`Model::plan`] and [`Model::predict`] (what a budget pins, and how fast it is),
//! [`Model::open_session`] and [`Model::resume`] (contexts that outlive the process), [`KvPolicy`] (how keys and values
//! are stored), and [`Allowance`] (a budget that shrinks and grows while the model runs). A budget is for the whole
//! process, so call [`memory::bound_allocators`] first.
//!
//! The families of models are listed in the repository's README; others are rejected with
//! [`ModelError::UnknownModelType`].
//!
//! Builds on Linux and macOS, which MLX supports, for 64-bit little-endian processors: the bytes of a checkpoint are
//! used as arrays in place.

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("flash-model builds on Linux and macOS only: MLX supports no other system");
#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!(
    "flash-model builds for 64-bit little-endian processors only: the bytes of a checkpoint are used as arrays in place"
);

mod checkpoint;
mod compute;
mod decoder;
mod engine;
mod error;
mod interrupt;
mod kv;
pub mod memory;
mod mlx;
mod models;
mod nn;
mod stream;

pub use checkpoint::Checkpoint;
pub use checkpoint::config::{Config, QuantizedFormat, QuantizedMode};
pub use compute::{Compute, ComputeOptions};
pub use engine::{
    Answer, Batch, BatchError, BatchOptions, Context, Engine, EngineOptions, EngineStats,
    FLOOR_CONTEXT_TOKENS, FinishReason, GenerateOptions, Generation, Logits, MemoryNeeds, Model,
    ModelOptions, Recovery, Request, Resumption, Segment, SessionContext, Speculation, SpeculationStats,
    StartError, Workload, generate,
};
pub use engine::{draft, sample};
pub use error::ModelError;
pub use flash_kernels::{Isa, KernelTuning};
pub use kv::{KvFormat, KvPolicy, WINDOW_TOKENS, WhenFull};
pub use memory::Allowance;
pub use stream::bundle::{BundleIdx, BundleInfo, Bundles};
pub use stream::conduct::ReadOptions;
pub use stream::experts::{ExpertInfo, ExpertRows, ExpertStats, ExpertTensor, LookaheadStats};
pub use stream::planner::MachineSpeeds;
pub use stream::proxy::StreamingProxy;
pub use stream::record::{Event, EventKind};
pub use stream::residency::Residency;
