//! The flags of `pack`.

use std::path::PathBuf;

use clap::Args;

use crate::model::ModelName;

#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// The directory of the model, or its id on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: ModelName,
    /// The directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
