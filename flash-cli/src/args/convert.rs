//! The flags of `convert`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{AFTER_HELP, FloatArg};
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
    /// Quantize this directory of safetensors as Hugging Face has them, or the model of that id, as mlx-lm would
    #[arg(long, value_name = "MODEL", groups = ["source", "quantizing"], conflicts_with = "target")]
    pub(crate) hf: Option<ModelName>,
    /// The directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// With --hf: quantize to this many bits: 2, 3, 4, 5, 6 or 8 [default: 4]
    #[arg(long, value_name = "N", requires = "hf")]
    pub(crate) bits: Option<u32>,
    /// With --gguf: re-pack every tensor without loss where MLX's format can hold it (the default)
    #[arg(long, group = "target")]
    pub(crate) keep: bool,
    /// With --gguf: quantize the matrices anew to this many bits: 2, 3, 4, 5, 6 or 8
    #[arg(long, value_name = "BITS", groups = ["target", "quantizing"])]
    pub(crate) quantize: Option<u32>,
    /// Quantize in groups of this many weights: 32, 64 or 128 [default: 64]
    #[arg(long, value_name = "N", requires = "quantizing")]
    pub(crate) group_size: Option<usize>,
    /// With --gguf: store every tensor as floats of this type
    #[arg(long, value_name = "TYPE", group = "target")]
    pub(crate) dtype: Option<FloatArg>,
    /// Begin a new file when one would become larger than this
    #[arg(long, value_name = "SIZE", default_value = "5GB", allow_negative_numbers = true)]
    pub(crate) shard_size: Size,
}
