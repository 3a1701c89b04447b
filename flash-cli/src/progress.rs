//! Progress, cancellation and results of commands that write model directories.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flash_convert::{ConvertError, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Signals;
use crate::output::note;
use crate::size::Bytes;

/// Receives the progress of writing, and may cancel it.
type OnProgress<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Runs `write` with a progress bar, and cancels it on a signal.
pub(crate) fn with_progress<T>(
    total_bytes: u64,
    write: impl FnOnce(&mut OnProgress<'_>) -> Result<T, ConvertError>,
) -> anyhow::Result<T> {
    let bar = ProgressBar::new(total_bytes).with_style(ProgressStyle::with_template(
        "{bar:40} {binary_bytes}/{binary_total_bytes}, {eta} left",
    )?);
    let stop = Arc::new(AtomicBool::new(false));
    let signals = Signals::new(Arc::clone(&stop))?;
    let guard = signals.guard();
    let result = write(&mut |now| {
        bar.set_position(now.done_bytes);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(guard);
    bar.finish_and_clear();
    Ok(result?)
}

/// Prints a summary of the written model.
pub(crate) fn report_written(out_dir: &Path, what: &str, total_bytes: u64, n_shards: usize) {
    let files = if n_shards == 1 { "file" } else { "files" };
    note(&format!("{}: {what}, {} in {n_shards} {files}", out_dir.display(), Bytes(total_bytes)));
}
