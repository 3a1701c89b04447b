//! `pull`: downloads a model from the Hugging Face hub to the cache.

use std::process::ExitCode;

use crate::args::PullArgs;
use crate::hub::{Hub, Pulled};
use crate::output;
use crate::size::Bytes;

pub(crate) fn run(args: PullArgs) -> anyhow::Result<ExitCode> {
    let PullArgs { id, revision } = args;
    let id = match revision {
        Some(revision) => id.with_revision(revision)?,
        None => id,
    };
    let Pulled { dir, n_files, total_bytes } = Hub::from_env()?.pull(&id)?;
    if n_files > 0 {
        output::note(&format!("{id}: {n_files} files, {}", Bytes(total_bytes)));
    }
    // The only output on standard output, for scripts.
    output::print(&format!("{}\n", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
