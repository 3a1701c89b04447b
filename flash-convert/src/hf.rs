//! Quantizes Hugging Face checkpoints as `mlx_lm.convert` does.

mod checkpoint;
mod family;
mod fp8;
mod gather;
mod gpt_oss;
mod int4;
mod latent;
mod parameter;
mod plan;
mod qwen3_5;
mod sanitize;
mod stream;
mod tensors;

pub use checkpoint::Checkpoint;
pub use plan::{COMPANION_FILES, QuantizePlan, Quantized};
