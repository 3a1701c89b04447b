//! What changes a disk, as few calls: tests let each of them fail, tear and crash. Reading needs none of them.

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

/// A file, and what it is called.
#[derive(Debug)]
pub(crate) struct DiskFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

/// What outlives a crash only if it has been synced.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// Writes all of `bytes`, or fails having written any of them.
    fn write_at(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, file: &DiskFile, len_bytes: u64) -> io::Result<()>;
    /// Contents and length of a file.
    fn sync(&self, file: &DiskFile) -> io::Result<()>;
    /// Takes the place of what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of a directory.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The disk of the system.
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

/// The disk of the system, to be shared.
pub(crate) fn system() -> Arc<dyn Disk> {
    Arc::new(SystemDisk)
}

/// What the names of files that are not finished end with, before the process and a count.
const UNFINISHED: &str = ".part-";

/// A file that takes its name, and the place of what had it, when it is whole and on the disk. It is removed if it never
/// gets there, unless the process ends before.
pub(crate) struct Replacement {
    disk: Arc<dyn Disk>,
    file: DiskFile,
    path: PathBuf,
    len_bytes: u64,
    finished: bool,
}

impl Replacement {
    pub(crate) fn new(disk: &Arc<dyn Disk>, path: PathBuf) -> Result<Self, KvError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut name = path.file_name().expect("a file has a name").to_owned();
        name.push(format!("{UNFINISHED}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let part = path.with_file_name(name);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&part);
        let file = DiskFile { file: opened.map_err(KvError::io(&part, "create"))?, path: part };
        Ok(Self { disk: Arc::clone(disk), file, path, len_bytes: 0, finished: false })
    }

    /// Writes what comes next.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        let written = self.disk.write_at(&self.file, self.len_bytes, bytes);
        written.map_err(KvError::writing(&self.path, bytes.len()))?;
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    /// The file, before it has its name: to lock it.
    pub(crate) fn file(&self) -> &File {
        &self.file.file
    }

    /// Syncs the file and gives it its name. For the name to outlive a crash, its directory is to be synced, too.
    pub(crate) fn finish(mut self) -> Result<DiskFile, KvError> {
        self.disk.sync(&self.file).map_err(KvError::io(&self.path, "sync"))?;
        self.disk.rename(&self.file.path, &self.path).map_err(KvError::io(&self.path, "rename to"))?;
        self.finished = true;
        let file = self.file.file.try_clone().map_err(KvError::io(&self.path, "open"))?;
        Ok(DiskFile { file, path: self.path.clone() })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.disk.remove(&self.file.path)
        {
            tracing::debug!(path = %self.file.path.display(), %error, "an unfinished file stays");
        }
    }
}

/// Whether a file is one that never got its name.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.contains(UNFINISHED)
}

/// The directory that a file or a directory is in.
pub(crate) fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory and those it is in, and sees to it that they outlive a crash.
pub(crate) fn make_dir(disk: &dyn Disk, dir: &Path) -> Result<(), KvError> {
    let missing: Vec<_> =
        dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    fs::create_dir_all(dir).map_err(KvError::io(dir, "create"))?;
    for made in missing {
        let parent = dir_of(made);
        disk.sync_dir(parent).map_err(KvError::io(parent, "sync"))?;
    }
    Ok(())
}

/// Locks a file for this process, until it is closed.
pub(crate) fn lock(file: &File, path: &Path) -> Result<(), KvError> {
    file.try_lock().map_err(|refusal| match refusal {
        fs::TryLockError::WouldBlock => KvError::Locked { path: path.to_owned() },
        fs::TryLockError::Error(error) => KvError::Io { path: path.to_owned(), doing: "lock", error },
    })
}

/// Waits until no other process makes or cleans something in `kv_dir`; the next one waits for the file to be closed.
pub(crate) fn hold(kv_dir: &Path) -> Result<File, KvError> {
    let path = kv_dir.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(KvError::io(&path, "open"))?;
    file.lock().map_err(KvError::io(&path, "lock"))?;
    Ok(file)
}

/// Names of what a directory holds; nothing if it is not there.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, KvError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(KvError::io(dir, "list")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not text is none of ours.
        names.extend(entry.map_err(KvError::io(dir, "list"))?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
