//! All files of a model, several at once.

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
use super::files::RemoteFile;
use super::listing;
use super::settings::Settings;
use super::transfer::{self, Transfer};
use super::{HubError, ModelId};

/// One connection rarely gets all that a line gives.
const CONNECTIONS: usize = 4;
const TEMPLATE: &str =
    "{prefix:36!} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";

/// Brings files into the cache and links them into the snapshot. What was brought before an error is kept.
pub(super) fn all(
    settings: &Settings,
    id: &ModelId,
    snapshot: &Snapshot,
    files: &[&RemoteFile],
) -> Result<(), HubError> {
    for file in files {
        let blob = snapshot.blob(file);
        let folder = blob.parent().unwrap_or(&settings.cache_dir);
        fs::create_dir_all(folder).map_err(HubError::of(folder))?;
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
            let brought = transfer.run(&agent, &|done_bytes| {
                bar.set_position(done_bytes);
                if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            bar.finish_and_clear();
            let linked = match brought {
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

/// A disk that is too small is told before hours of work, not after.
fn check_space(dir: &Path, snapshot: &Snapshot, files: &[&RemoteFile]) -> Result<(), HubError> {
    let missing = |file: &&RemoteFile| file.bytes.saturating_sub(transfer::part_bytes(&snapshot.blob(file)));
    let needed_bytes = files.iter().map(missing).fold(0, u64::saturating_add);
    let disk = statvfs(dir).map_err(|error| HubError::of(dir)(error.into()))?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed_bytes > free_bytes {
        return Err(HubError::NoSpace { dir: dir.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}

fn bar(file: &RemoteFile) -> ProgressBar {
    // A template of ours: if it is wrong, the bar of the library does.
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(file.bytes).with_style(style).with_prefix(file.name.clone())
}
