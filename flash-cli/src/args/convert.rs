//! Flags of `convert`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::help::AFTER_HELP;
use crate::model::ModelName;
use crate::size::Size;

#[derive(Debug, Args)]
#[command(
    after_help = AFTER_HELP,
    group = ArgGroup::new("source").required(true),
    group = ArgGroup::new("quantizing").multiple(true),
)]
pub(crate) struct ConvertArgs {
    /// Convert this GGUF file
    #[arg(long, value_name = "FILE", group = "source")]
    pub(crate) gguf: Option<PathBuf>,
    /// Quantize this Hugging Face model (a directory or an id) as mlx-lm does
    #[arg(long, value_name = "MODEL", groups = ["source", "quantizing"], conflicts_with = "target")]
    pub(crate) hf: Option<ModelName>,
    /// Output directory; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// With --hf: bits per weight: 2, 3, 4, 5, 6 or 8 [default: 4]
    #[arg(long, value_name = "N", requires = "hf")]
    pub(crate) bits: Option<u32>,
    /// With --gguf: repack tensors without loss where MLX's format allows it (the default)
    #[arg(long, group = "target")]
    pub(crate) keep: bool,
    /// With --gguf: requantize matrices to this many bits: 2, 3, 4, 5, 6 or 8
    #[arg(long, value_name = "BITS", groups = ["target", "quantizing"])]
    pub(crate) quantize: Option<u32>,
    /// Weights per quantization group: 32, 64 or 128 [default: 64]
    #[arg(long, value_name = "N", requires = "quantizing")]
    pub(crate) group_size: Option<usize>,
    /// With --gguf: store every tensor as floats of this type
    #[arg(long, value_name = "TYPE", group = "target")]
    pub(crate) dtype: Option<FloatArg>,
    /// Maximum size of a shard
    #[arg(long, value_name = "SIZE", default_value = "5GB", allow_negative_numbers = true)]
    pub(crate) shard_size: Size,
}

/// Value of `--dtype`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FloatArg {
    F32,
    F16,
    Bf16,
}
