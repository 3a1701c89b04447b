//! Hugging Face directories: safetensors of floats, quantised as `mlx_lm.convert` does.

mod checkpoint;
mod family;
mod plan;
mod stream;

pub use checkpoint::Checkpoint;
pub use plan::{COMPANION_FILES, QuantizePlan, Quantized};
