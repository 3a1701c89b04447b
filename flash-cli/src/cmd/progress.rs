//! What the verbs that write model directories have in common.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flash_convert::{ConvertError, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Signals;
use crate::output::note;
use crate::size::Bytes;

/// Is told how far writing is, and may end it.
type OnProgress<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Writes with a progress bar, and until a signal asks to stop.
pub(super) fn watched<T>(
    total_bytes: u64,
    write: impl FnOnce(&mut OnProgress<'_>) -> Result<T, ConvertError>,
) -> anyhow::Result<T> {
    let bar = ProgressBar::new(total_bytes).with_style(ProgressStyle::with_template(
        "{bar:40} {binary_bytes}/{binary_total_bytes}, {eta} left",
    )?);
    let stop = Arc::new(AtomicBool::new(false));
    let signals = Signals::new(Arc::clone(&stop))?;
    let caught = signals.catch();
    let result = write(&mut |now| {
        bar.set_position(now.done_bytes);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(caught);
    bar.finish_and_clear();
    Ok(result?)
}

/// Says what was written.
pub(super) fn tell(out_dir: &Path, what: &str, total_bytes: u64, n_shards: usize) {
    let files = if n_shards == 1 { "file" } else { "files" };
    note(&format!("{}: {what}, {} in {n_shards} {files}", out_dir.display(), Bytes(total_bytes)));
}
