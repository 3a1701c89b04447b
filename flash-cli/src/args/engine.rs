//! Flags of the commands that run a model: its memory, disk and compute.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use flash_io::IoMode;

use super::kv::KvArgs;
use crate::model::ModelName;
use crate::ram::Ram;
use crate::size::Size;

/// Flags of the size in which matrices are loaded.
#[derive(Debug, Args)]
pub(crate) struct TilingArgs {
    /// Cut the matrices of layers into tiles of at most this many rows (1024 suits large models), loaded one by one: two
    /// tiles instead of two layers must fit in memory; slower, most for long prompts [default: load layers whole]
    #[arg(long, value_name = "ROWS", value_parser = value_parser!(u64).range(4..), help_heading = "Memory and disk")]
    tile_size: Option<u64>,
}

impl TilingArgs {
    /// Returns the largest number of rows in a tile; `None` to load layers whole.
    pub(crate) fn rows(&self) -> Option<NonZeroU64> {
        self.tile_size.and_then(NonZeroU64::new)
    }
}

/// Flags that select a model and how it is run.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Model directory, GGUF file (converted once), or Hugging Face model id: ORG/NAME or ORG/NAME@REVISION
    #[arg(short, long)]
    pub(crate) model: Option<ModelName>,
    /// Read settings from this Modelfile; flags override them
    #[arg(long, value_name = "FILE")]
    pub(crate) modelfile: Option<PathBuf>,
    /// Memory budget of the whole process; auto: use free memory minus headroom, and release memory under pressure
    /// [default: auto]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Memory and disk")]
    pub(crate) ram: Option<Ram>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// Read weights past the page cache (uring, direct), through it (pread), from a memory map (mmap), or in the mode
    /// measured to be fastest on the disk (auto)
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Memory and disk")]
    pub(crate) io: IoArg,
    /// Number of concurrent disk reads [default: tuned to the disk]
    #[arg(long, value_name = "N", help_heading = "Memory and disk")]
    pub(crate) threads: Option<usize>,
    /// Read at most this much per second, to leave bandwidth to other programs
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Memory and disk")]
    pub(crate) max_read_rate: Option<Size>,
    #[command(flatten)]
    pub(crate) tiling: TilingArgs,
    /// Compute with MLX, or with native CPU kernels [default: native on a CPU, mlx otherwise]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) compute: Option<ComputeArg>,
    /// Round as little in native kernels as MLX does in float32: up to twice as slow where weights are in memory
    #[arg(long)]
    pub(crate) exact: bool,
    /// Route each token to this many experts, which changes the output; 0 for the trained number [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) moe_top_k: Option<usize>,
    /// Disable read-ahead: slower, with less memory
    #[arg(long, help_heading = "Memory and disk")]
    pub(crate) no_pipeline: bool,
    /// Print the plan and diagnostics to standard error
    #[arg(long)]
    pub(crate) debug: bool,
}

/// Value of `--io`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum IoArg {
    Auto,
    Uring,
    Direct,
    Pread,
    Mmap,
}

impl IoArg {
    pub(crate) fn mode(self) -> IoMode {
        match self {
            Self::Auto => IoMode::Auto,
            Self::Uring => IoMode::Uring,
            Self::Direct => IoMode::Direct,
            Self::Pread => IoMode::Pread,
            Self::Mmap => IoMode::Mmap,
        }
    }
}

/// Value of `--compute`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ComputeArg {
    Mlx,
    Native,
}
