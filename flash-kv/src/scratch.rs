//! The pages of a context that ends with its process.

use std::fs::{self, File};
use std::path::Path;
use std::process;
use std::sync::Arc;

use tempfile::TempDir;

use crate::disk::{hold, lock, make_dir, names, system};
use crate::{Identity, KvError, PageFile};

/// What the names of such directories begin with, before the process and something that makes them unique.
const RUN_PREFIX: &str = "run-";

const PAGES_FILE: &str = "pages.kv";

/// A file of pages in a directory `<kv-dir>/run-<process>-…/` that is removed when this is dropped. What is left by a process
/// that had no time for that is removed by the next one.
#[derive(Debug)]
pub struct Scratch {
    pages: Arc<PageFile>,
    dir: TempDir,
}

impl Scratch {
    /// Makes directory and file, and removes those of runs that are over.
    ///
    /// # Errors
    /// [`KvError::Io`] or [`KvError::DiskFull`].
    ///
    /// # Panics
    /// As [`PageFile::create`].
    pub fn new(kv_dir: &Path, identity: &Identity) -> Result<Self, KvError> {
        make_dir(&*system(), kv_dir)?;
        // A directory without a locked file belongs to nobody, but for the moment in which it is made.
        let held = hold(kv_dir)?;
        clean(kv_dir)?;
        let prefix = format!("{RUN_PREFIX}{}-", process::id());
        let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(kv_dir);
        let dir = made.map_err(KvError::io(kv_dir, "make a directory in"))?;
        let pages = PageFile::create(&dir.path().join(PAGES_FILE), identity)?;
        drop(held);
        Ok(Self { pages: Arc::new(pages), dir })
    }

    /// The file.
    pub fn pages(&self) -> &Arc<PageFile> {
        &self.pages
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes what is left in `kv_dir` of runs that had no time for that. The next run would do it, too.
///
/// # Errors
/// [`KvError::Io`] if the directory cannot be listed or locked.
pub fn remove_left_over_runs(kv_dir: &Path) -> Result<(), KvError> {
    if !kv_dir.exists() {
        return Ok(());
    }
    let _held = hold(kv_dir)?;
    clean(kv_dir)
}

/// Removes the directories of runs that are over: nobody holds the lock of their file.
fn clean(kv_dir: &Path) -> Result<(), KvError> {
    for name in names(kv_dir)?.into_iter().filter(|name| name.starts_with(RUN_PREFIX)) {
        let dir = kv_dir.join(name);
        let path = dir.join(PAGES_FILE);
        let in_use = File::open(&path).is_ok_and(|file| lock(&file, &path).is_err());
        // It may be another user's: whoever it belongs to can remove it.
        if !in_use && let Err(error) = fs::remove_dir_all(&dir) {
            tracing::debug!(dir = %dir.display(), %error, "what a run left over stays");
        }
    }
    Ok(())
}
