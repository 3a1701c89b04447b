//! The flags of `pack`.

use std::path::PathBuf;

use clap::Args;

use super::AFTER_HELP;
use crate::model::ModelName;
use crate::size::Size;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PackArgs {
    /// The directory of the model, or its id on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: ModelName,
    /// The directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Begin a new file when one would become larger than this
    #[arg(long, value_name = "SIZE", default_value = "5GB", allow_negative_numbers = true)]
    pub(crate) shard_size: Size,
}
