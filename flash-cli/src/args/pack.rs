//! Flags of `pack`.

use std::path::PathBuf;

use clap::Args;

use crate::model::ModelName;

#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// Model directory, or Hugging Face model id: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: ModelName,
    /// Output directory; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
