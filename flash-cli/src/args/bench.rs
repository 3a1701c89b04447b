//! The flags of `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How fast the disk gives the weights
    Io(BenchIoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchIoArgs {
    /// The directory of the model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
