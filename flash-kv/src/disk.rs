//! The disk operations behind all writes, as a small trait that tests replace to inject failures, torn writes and
//! crashes. Reads bypass it.

#[cfg(test)]
pub(crate) mod crash;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::KvError;

/// An open file with its path.
#[derive(Debug)]
pub(crate) struct DiskFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

/// Operations that modify a disk. Their effects survive a crash only after a sync.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// Writes all of `bytes`. On failure, any part of them may have been written.
    fn write_at(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, file: &DiskFile, len_bytes: u64) -> io::Result<()>;
    /// Syncs contents and length of a file.
    fn sync(&self, file: &DiskFile) -> io::Result<()>;
    /// Renames a file, replacing an existing `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Syncs the names in a directory.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The file system of the operating system.
#[derive(Debug)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {
    fn write_at(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &DiskFile, len_bytes: u64) -> io::Result<()> {
        file.file.set_len(len_bytes)
    }

    fn sync(&self, file: &DiskFile) -> io::Result<()> {
        file.file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// Returns the shared [`SystemDisk`].
pub(crate) fn system() -> Arc<dyn Disk> {
    Arc::new(SystemDisk)
}

/// Marks the names of temporary files; the process id and a counter follow.
const TEMPORARY_MARK: &str = ".part-";

/// A file written under a temporary name, which atomically replaces `path` once it is complete and synced. Dropping it
/// before [`finish`](Self::finish) removes the temporary file.
pub(crate) struct AtomicFile {
    disk: Arc<dyn Disk>,
    file: DiskFile,
    path: PathBuf,
    len_bytes: u64,
    finished: bool,
}

impl AtomicFile {
    pub(crate) fn new(disk: &Arc<dyn Disk>, path: PathBuf) -> Result<Self, KvError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut name = path.file_name().expect("a file has a name").to_owned();
        name.push(format!("{TEMPORARY_MARK}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let part = path.with_file_name(name);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&part);
        let file = DiskFile { file: opened.map_err(KvError::io(&part, "create"))?, path: part };
        Ok(Self { disk: Arc::clone(disk), file, path, len_bytes: 0, finished: false })
    }

    /// Appends `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        let written = self.disk.write_at(&self.file, self.len_bytes, bytes);
        written.map_err(KvError::writing(&self.path, bytes.len()))?;
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Returns the open file, so that it can be locked before it becomes visible.
    pub(crate) fn file(&self) -> &File {
        &self.file.file
    }

    /// Syncs the file and renames it to its final path. The rename survives a crash only once the directory is synced
    /// too.
    pub(crate) fn finish(mut self) -> Result<DiskFile, KvError> {
        self.disk.sync(&self.file).map_err(KvError::io(&self.path, "sync"))?;
        self.disk.rename(&self.file.path, &self.path).map_err(KvError::io(&self.path, "rename to"))?;
        self.finished = true;
        let file = self.file.file.try_clone().map_err(KvError::io(&self.path, "open"))?;
        Ok(DiskFile { file, path: self.path.clone() })
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.disk.remove(&self.file.path)
        {
            tracing::debug!(path = %self.file.path.display(), %error, "cannot remove a temporary file");
        }
    }
}

/// Whether `name` is that of a temporary file left unfinished.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.contains(TEMPORARY_MARK)
}

/// Returns the directory that contains `path`.
pub(crate) fn parent_dir(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Creates a directory with its ancestors, and syncs their parents so that they survive a crash.
pub(crate) fn create_dir_synced(disk: &dyn Disk, dir: &Path) -> Result<(), KvError> {
    let missing: Vec<_> =
        dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    fs::create_dir_all(dir).map_err(KvError::io(dir, "create"))?;
    for created in missing {
        let parent = parent_dir(created);
        disk.sync_dir(parent).map_err(KvError::io(parent, "sync"))?;
    }
    Ok(())
}

/// Locks a file exclusively for this process, until the file is closed.
pub(crate) fn lock(file: &File, path: &Path) -> Result<(), KvError> {
    file.try_lock().map_err(|refusal| match refusal {
        fs::TryLockError::WouldBlock => KvError::Locked { path: path.to_owned() },
        fs::TryLockError::Error(error) => KvError::Io { path: path.to_owned(), doing: "lock", error },
    })
}

/// Takes the lock of `kv_dir`, under which processes create and clean up files. Closing the returned file releases it.
pub(crate) fn lock_dir(kv_dir: &Path) -> Result<File, KvError> {
    let path = kv_dir.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(KvError::io(&path, "open"))?;
    file.lock().map_err(KvError::io(&path, "lock"))?;
    Ok(file)
}

/// Returns the sorted names in a directory; none if it does not exist.
pub(crate) fn list_dir(dir: &Path) -> Result<Vec<String>, KvError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(KvError::io(dir, "list")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // This crate creates only UTF-8 names.
        names.extend(entry.map_err(KvError::io(dir, "list"))?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
