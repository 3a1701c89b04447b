//! Page files that live as long as their process.

use std::fs::{self, File};
use std::path::Path;
use std::process;
use std::sync::Arc;

use tempfile::TempDir;

use crate::disk::{create_dir_synced, list_dir, lock, lock_dir, system};
use crate::{Identity, KvError, PageFile};

/// Prefix of the directory names; the process id and a unique suffix follow.
const RUN_PREFIX: &str = "run-";

const PAGES_FILE: &str = "pages.kv";

/// A page file in a directory `<kv-dir>/run-<process>-…/`, removed on drop. Directories that a killed process left
/// behind are removed by the next run.
#[derive(Debug)]
pub struct Scratch {
    pages: Arc<PageFile>,
    dir: TempDir,
}

impl Scratch {
    /// Creates the directory and the file, and removes those of runs that have ended.
    ///
    /// # Errors
    /// [`KvError::Io`] or [`KvError::DiskFull`].
    ///
    /// # Panics
    /// Panics like [`PageFile::create`].
    pub fn new(kv_dir: &Path, identity: &Identity) -> Result<Self, KvError> {
        create_dir_synced(&*system(), kv_dir)?;
        // The directory lock covers the moment between creating the directory and locking its file, when it looks
        // stale.
        let locked = lock_dir(kv_dir)?;
        clean(kv_dir)?;
        let prefix = format!("{RUN_PREFIX}{}-", process::id());
        let created = tempfile::Builder::new().prefix(&prefix).tempdir_in(kv_dir);
        let dir = created.map_err(KvError::io(kv_dir, "make a directory in"))?;
        let pages = PageFile::create(&dir.path().join(PAGES_FILE), identity)?;
        drop(locked);
        Ok(Self { pages: Arc::new(pages), dir })
    }

    /// Returns the page file.
    pub fn pages(&self) -> &Arc<PageFile> {
        &self.pages
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes directories that killed runs left in `kv_dir`. The next run would do it, too.
///
/// # Errors
/// [`KvError::Io`] if the directory cannot be listed or locked.
pub fn remove_stale_runs(kv_dir: &Path) -> Result<(), KvError> {
    if !kv_dir.exists() {
        return Ok(());
    }
    let _locked = lock_dir(kv_dir)?;
    clean(kv_dir)
}

/// Removes the directories of runs whose page file is no longer locked.
fn clean(kv_dir: &Path) -> Result<(), KvError> {
    for name in list_dir(kv_dir)?.into_iter().filter(|name| name.starts_with(RUN_PREFIX)) {
        let dir = kv_dir.join(name);
        let path = dir.join(PAGES_FILE);
        let in_use = File::open(&path).is_ok_and(|file| lock(&file, &path).is_err());
        // The directory may belong to another user, whose next run removes it.
        if !in_use && let Err(error) = fs::remove_dir_all(&dir) {
            tracing::debug!(dir = %dir.display(), %error, "cannot remove the directory of an ended run");
        }
    }
    Ok(())
}
