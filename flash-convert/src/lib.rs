//! Converts GGUF models and Hugging Face checkpoints to MLX model directories, which mlx-lm loads as they are, in
//! constant memory.
//!
//! Each conversion has three steps: open, which reads all but the weights and rejects what is not supported; plan; run,
//! which writes a directory that appears complete or not at all.
//!
//! | from | open | plan | result |
//! |---|---|---|---|
//! | a GGUF file | [`Conversion::open`] | [`Plan`] | [`Report`] |
//! | a Hugging Face checkpoint | [`Checkpoint::open`] | [`QuantizePlan`] | [`Quantized`] |
//! | a mixture of experts | [`PackPlan::new`] | [`PackPlan`] | [`Packed`] |
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use flash_convert::{Conversion, SHARD_BYTES_DEFAULT, Target};
//!
//! let model = Conversion::open(Path::new("model.gguf"))?;
//! let plan = model.plan(Target::Keep, SHARD_BYTES_DEFAULT)?;
//! // `Keep` is lossless but for formats that MLX does not have.
//! for tensor in plan.lossy() {
//!     println!("{} cannot be kept: {} becomes {}", tensor.name, tensor.from, tensor.becomes);
//! }
//! plan.run(Path::new("model-mlx"), &mut |_progress| ControlFlow::Continue(()))?;
//! # Ok::<(), flash_convert::ConvertError>(())
//! ```
//!
//! [`Checkpoint`] quantizes Hugging Face directories of safetensors, bit for bit as mlx-lm does. The weights may be
//! floats, the fp8 (e4m3) weights of DeepSeek-V3, the int4 experts of Kimi K2, or the mxfp4 experts of `gpt_oss`.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use flash_convert::{Checkpoint, SHARD_BYTES_DEFAULT};
//!
//! // 4 bits in groups of 64.
//! let checkpoint = Checkpoint::open(Path::new("model"))?;
//! let plan = checkpoint.quantize(4, 64, SHARD_BYTES_DEFAULT)?;
//! plan.run(Path::new("model-4bit"), &mut |_progress| ControlFlow::Continue(()))?;
//! # Ok::<(), flash_convert::ConvertError>(())
//! ```
//!
//! [`PackPlan`] copies a mixture of experts so that the tensors of each expert are contiguous on disk. It takes the
//! names of these tensors as [`PackedLayer`]s; `flash_model::Model::expert_rows` lists them. Only flash reads such
//! copies: mlx-lm expects the original tensors.
//!
//! A split GGUF model (`NAME-00001-of-00003.gguf`) is read as one model, whichever part is given.
//!
//! [`gguf`] reads the format (its header parser is pure and fuzzed); [`Conversion`] turns a file into a directory with
//! weights, config.json, tokenizer.json, `tokenizer_config.json` and `generation_config.json`. Supported are the
//! `llama`, `qwen2`, `qwen3` and `gemma3` architectures, byte-level and `SentencePiece` BPE tokenizers, and the block
//! formats of [`gguf::BlockFormat`]; anything else is rejected with an error that names it.

mod architecture;
mod conversion;
mod error;
pub mod gguf;
mod hf;
mod layout;
mod pack;
mod progress;
mod scratch;
mod shards;
mod source;
mod stream;
mod target;
mod tokenizer;
mod writer;

pub use conversion::{Conversion, Plan, Report, SHARD_BYTES_DEFAULT};
pub use error::{ConvertError, SplitProblem, TokenizerProblem};
pub use hf::{COMPANION_FILES, Checkpoint, QuantizePlan, Quantized};
pub use layout::PlannedTensor;
pub use pack::{Member, PackPlan, Packed, PackedLayer};
pub use progress::Progress;
pub use target::{Target, TensorFormat};
