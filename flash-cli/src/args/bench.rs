//! Flags of `bench`.

use clap::{Args, Subcommand};

use super::engine::{EngineArgs, IoArg};
use crate::model::ModelName;
use crate::size::Size;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure the read throughput of the disk
    Io(BenchIoArgs),
    /// Measure products of a few rows with weights of each format, against the read rate of memory
    Kernels(BenchKernelsArgs),
    /// Compare the hit rates of expert cache policies on synthetic routing
    Experts(BenchExpertsArgs),
    /// Measure decoding against the limit set by disk and processor
    Stream(BenchStreamArgs),
    /// Measure prefill against the limit set by disk and processor
    Prefill(BenchPrefillArgs),
    /// Measure decoding for several clients at once
    Batch(BenchBatchArgs),
}

impl BenchCommand {
    /// Whether `--debug` was given.
    pub(crate) fn debug(&self) -> bool {
        match self {
            Self::Stream(args) => args.engine.debug,
            Self::Prefill(args) => args.engine.debug,
            Self::Batch(args) => args.engine.debug,
            Self::Io(_) | Self::Kernels(_) | Self::Experts(_) => false,
        }
    }
}

/// The flag of all benchmarks.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct JsonArg {
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchIoArgs {
    /// Model directory, or Hugging Face model id: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: ModelName,
    /// Measure only this I/O mode; may be given more than once [default: uring, direct and pread]
    #[arg(long, value_name = "MODE")]
    pub(crate) io: Vec<IoArg>,
    /// Compare with fio (libaio, direct, 1 MiB, depth 8), which must be installed
    #[arg(long)]
    pub(crate) fio: bool,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct BenchKernelsArgs {
    /// Measure only this instruction set; may be given more than once [default: all of this machine but portable]
    #[arg(long, value_name = "NAME")]
    pub(crate) kernels: Vec<String>,
    /// Read weights of this size in turn, more than the caches hold: 1GiB, 512MiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) memory: Size,
    /// Repeat each product for at least this long
    #[arg(long, value_name = "MS", default_value_t = 300)]
    pub(crate) ms: u64,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct BenchExpertsArgs {
    /// Number of experts per layer
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) experts: usize,
    /// Number of experts per token
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) top_k: usize,
    /// Number of synthetic tokens
    #[arg(long, value_name = "N", default_value_t = 4000)]
    pub(crate) tokens: usize,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPrefillArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Prompt length in tokens
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) tokens: usize,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct BenchBatchArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Numbers of clients
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4,8,16")]
    pub(crate) clients: Vec<usize>,
    /// Prompt length of each client in tokens
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) prompt_tokens: usize,
    /// Decode this many tokens for each client
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) tokens: usize,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct BenchStreamArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Decode this many tokens
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) tokens: usize,
    /// Decode after a synthetic context of this many tokens, in pages
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) context: usize,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}
