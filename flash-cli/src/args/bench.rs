//! The flags of `bench`.

use clap::{Args, Subcommand};

use super::{EngineArgs, IoArg};
use crate::model::ModelName;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How fast the disk gives the weights
    Io(BenchIoArgs),
    /// How often tokens find their experts in memory, by who stays there
    Experts(BenchExpertsArgs),
    /// How close decoding comes to the limit that disk and processor set
    Stream(BenchStreamArgs),
    /// How close a long prompt comes to that limit
    Prefill(BenchPrefillArgs),
}

impl BenchCommand {
    /// Whether to tell what is planned and done.
    pub(crate) fn debug(&self) -> bool {
        match self {
            Self::Stream(args) => args.engine.debug,
            Self::Prefill(args) => args.engine.debug,
            Self::Io(_) | Self::Experts(_) => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchExpertsArgs {
    /// Experts of a layer
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) experts: usize,
    /// Experts of a token
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) top_k: usize,
    /// Make up this many tokens
    #[arg(long, value_name = "N", default_value_t = 4000)]
    pub(crate) tokens: usize,
    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPrefillArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Pass a prompt of this many tokens
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) tokens: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchStreamArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Decode this many tokens
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) tokens: usize,
    /// Decode behind a context of this many made-up tokens, in pages
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) context: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchIoArgs {
    /// The directory of the model, or its id on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: ModelName,
    /// Measure only this way to read; may be given more than once [default: uring, direct and pread]
    #[arg(long, value_name = "MODE")]
    pub(crate) io: Vec<IoArg>,
    /// Compare with fio (libaio, direct, 1 MiB, depth 8), which must be installed
    #[arg(long)]
    pub(crate) fio: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
