//! Downloads the files of a model, several at once.

use std::collections::VecDeque;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rustix::fs::statvfs;

use super::cache::Snapshot;
use super::error::HubError;
use super::files::RemoteFile;
use super::id::ModelId;
use super::listing;
use super::settings::Settings;
use super::transfer::{self, Transfer};

/// Number of concurrent downloads. A single connection rarely uses the whole bandwidth.
const CONNECTIONS: usize = 4;
const TEMPLATE: &str =
    "{prefix:36!} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";

/// Downloads files to the cache and links them into the snapshot. Files that are complete before an error are kept.
pub(super) fn all(
    settings: &Settings,
    id: &ModelId,
    snapshot: &Snapshot,
    files: &[&RemoteFile],
) -> Result<(), HubError> {
    for file in files {
        let blob = snapshot.blob(file);
        let folder = blob.parent().unwrap_or(&settings.cache_dir);
        fs::create_dir_all(folder).map_err(HubError::in_cache(folder))?;
    }
    check_space(&settings.cache_dir, snapshot, files)?;

    let repo = listing::repo(settings, id, snapshot.commit())?;
    let agent = transfer::agent();
    let bars = MultiProgress::new();
    let queue: Mutex<VecDeque<_>> = Mutex::new(files.iter().copied().collect());
    let stop = AtomicBool::new(false);
    let work = || {
        loop {
            let Some(file) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                return Ok(());
            };
            let transfer = Transfer {
                url: repo.url(&file.name),
                token: settings.token.as_deref(),
                file,
                blob: snapshot.blob(file),
            };
            let bar = bars.add(bar(file));
            let downloaded = transfer.run(&agent, &|done_bytes| {
                bar.set_position(done_bytes);
                if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            bar.finish_and_clear();
            let linked = match downloaded {
                Ok(ControlFlow::Break(())) => return Ok(()),
                Ok(ControlFlow::Continue(())) => snapshot.link(file),
                Err(error) => Err(error),
            };
            if let Err(error) = linked {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS.min(files.len())).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Checks that the disk has room for `files` before any is downloaded.
fn check_space(dir: &Path, snapshot: &Snapshot, files: &[&RemoteFile]) -> Result<(), HubError> {
    let missing = |file: &&RemoteFile| file.bytes.saturating_sub(transfer::part_bytes(&snapshot.blob(file)));
    let needed_bytes = files.iter().map(missing).fold(0, u64::saturating_add);
    let disk = statvfs(dir).map_err(|error| HubError::in_cache(dir)(error.into()))?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed_bytes > free_bytes {
        return Err(HubError::NoSpace { dir: dir.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}

fn bar(file: &RemoteFile) -> ProgressBar {
    // An invalid template is a bug, but no reason to fail: fall back to the default style.
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(file.bytes).with_style(style).with_prefix(file.name.clone())
}
