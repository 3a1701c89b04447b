//! A simulated disk that fails, fills up or crashes at its nth operation.
//!
//! A crash tears the write in progress, and may undo whatever was not synced: each write independently, fully or
//! partially, and the latest renames and removals.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::{Disk, DiskFile, SystemDisk};
use crate::file::read_full;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One operation fails; a failing write may be partial.
    Fail,
    /// Every write from then on fails for lack of space.
    Full,
    /// Every operation from then on fails.
    Crash,
}

#[derive(Debug)]
pub(crate) struct FaultyDisk {
    state: Mutex<State>,
    /// Keeps files that were replaced or removed, so that a crash can bring them back.
    backups: TempDir,
}

#[derive(Debug)]
struct State {
    n_operations: u64,
    at: u64,
    fault: Fault,
    random: u64,
    undo: Vec<Undo>,
}

/// The inverse of an operation that is not synced.
#[derive(Debug)]
enum Undo {
    Write { file: File, inode: u64, offset: u64, old: Vec<u8>, old_len: u64 },
    Cut { file: File, inode: u64, offset: u64, old: Vec<u8> },
    Rename { from: PathBuf, to: PathBuf, old: Option<PathBuf> },
    Remove { path: PathBuf, old: PathBuf },
}

/// Outcome of an operation.
enum Outcome {
    Done,
    /// Fails after this share of it, in 256ths, is done.
    Torn(u8, io::Error),
}

impl FaultyDisk {
    /// Creates a disk below `root` whose operation `at`, counted from 1, goes wrong.
    pub(crate) fn new(root: &Path, fault: Fault, at: u64, seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let state = State { n_operations: 0, at, fault, random, undo: Vec::new() };
        Self { state: Mutex::new(state), backups: tempfile::tempdir_in(root).unwrap() }
    }

    /// Returns the number of operations requested.
    pub(crate) fn n_operations(&self) -> u64 {
        self.state.lock().n_operations
    }

    /// Ends the simulated process; after a crash, undoes what may be lost.
    pub(crate) fn end(&self) {
        if self.state.lock().fault == Fault::Crash {
            self.lose_unsynced();
        }
        // The undo log keeps files open, and thereby locked.
        self.state.lock().undo.clear();
    }

    fn lose_unsynced(&self) {
        let mut state = self.state.lock();
        let (mut names_stay, mut written) = (false, HashSet::new());
        // Surviving parts of later writes are applied again on top of the restored bytes.
        let mut again: Vec<(File, u64, Vec<u8>)> = Vec::new();
        while let Some(undo) = state.undo.pop() {
            match undo {
                Undo::Write { file, inode, offset, old, old_len } => {
                    // All of the write survives, none, or a part.
                    let kept = match state.random() % 3 {
                        0 => old.len(),
                        1 => 0,
                        _ => state.random() as usize % (old.len() + 1),
                    };
                    if kept > 0 {
                        let mut bytes = vec![0; kept];
                        file.read_exact_at(&mut bytes, offset).unwrap();
                        written.insert(inode);
                        again.push((file.try_clone().unwrap(), offset, bytes));
                    }
                    file.write_all_at(&old[kept..], offset + kept as u64).unwrap();
                    if !written.contains(&inode) {
                        file.set_len(old_len).unwrap();
                    }
                }
                Undo::Cut { file, inode, offset, old } => {
                    if state.random().is_multiple_of(2) {
                        file.write_all_at(&old, offset).unwrap();
                        written.insert(inode);
                    }
                }
                Undo::Rename { from, to, old } => {
                    names_stay |= state.random().is_multiple_of(2);
                    if !names_stay {
                        fs::rename(&to, &from).unwrap();
                        if let Some(old) = old {
                            fs::rename(old, to).unwrap();
                        }
                    }
                }
                Undo::Remove { path, old } => {
                    names_stay |= state.random().is_multiple_of(2);
                    if !names_stay {
                        fs::rename(old, path).unwrap();
                    }
                }
            }
        }
        for (file, offset, bytes) in again.iter().rev() {
            file.write_all_at(bytes, *offset).unwrap();
        }
    }

    /// Links a file that is about to lose its name into the backup directory; `None` if it does not exist.
    fn back_up(&self, path: &Path, state: &State) -> Option<PathBuf> {
        let old = self.backups.path().join(format!("{}", state.n_operations));
        fs::hard_link(path, &old).ok().map(|()| old)
    }

    fn names(&self, state: &mut State, change: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        match state.next(false) {
            Outcome::Done => change(state),
            Outcome::Torn(share, error) => {
                // A failed rename or removal may have taken effect.
                if share >= 128 {
                    change(state)?;
                }
                Err(error)
            }
        }
    }
}

impl State {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn next(&mut self, is_write: bool) -> Outcome {
        self.n_operations += 1;
        let (at_it, behind) = (self.n_operations == self.at, self.n_operations > self.at);
        let random = (self.random() >> 20) as u8;
        match self.fault {
            Fault::Fail if at_it => Outcome::Torn(random, io::Error::other("injected failure")),
            Fault::Full if (at_it || behind) && is_write => {
                Outcome::Torn(random, io::ErrorKind::StorageFull.into())
            }
            Fault::Crash if at_it => Outcome::Torn(random, io::Error::other("crashed")),
            Fault::Crash if behind => Outcome::Torn(0, io::Error::other("crashed before")),
            _ => Outcome::Done,
        }
    }

    /// Records the bytes of a range that is about to be written or cut.
    fn record_undo(&mut self, file: &DiskFile, offset: u64, len: usize, is_cut: bool) -> io::Result<()> {
        let metadata = file.file.metadata()?;
        let mut old = vec![0; len];
        read_full(&file.file, offset, &mut old)?;
        let (file, inode, old_len) = (file.file.try_clone()?, metadata.ino(), metadata.len());
        self.undo.push(match is_cut {
            true => Undo::Cut { file, inode, offset, old },
            false => Undo::Write { file, inode, offset, old, old_len },
        });
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn write_at(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let (len, outcome) = match state.next(true) {
            Outcome::Done => (bytes.len(), Ok(())),
            Outcome::Torn(share, error) => (bytes.len() * usize::from(share) / 256, Err(error)),
        };
        state.record_undo(file, offset, len, false)?;
        SystemDisk.write_at(file, offset, &bytes[..len])?;
        outcome
    }

    fn set_len(&self, file: &DiskFile, len_bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.next(false) {
            Outcome::Done => {
                let cut = file.file.metadata()?.len().saturating_sub(len_bytes);
                state.record_undo(file, len_bytes, cut as usize, true)?;
                SystemDisk.set_len(file, len_bytes)
            }
            Outcome::Torn(_, error) => Err(error),
        }
    }

    fn sync(&self, file: &DiskFile) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.next(false) {
            Outcome::Done => {
                let synced = file.file.metadata()?.ino();
                state.undo.retain(|undo| match undo {
                    Undo::Write { inode, .. } | Undo::Cut { inode, .. } => *inode != synced,
                    Undo::Rename { .. } | Undo::Remove { .. } => true,
                });
                Ok(())
            }
            Outcome::Torn(_, error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        self.names(&mut state, |state| {
            let old = self.back_up(to, state);
            SystemDisk.rename(from, to)?;
            state.undo.push(Undo::Rename { from: from.to_owned(), to: to.to_owned(), old });
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        self.names(&mut state, |state| {
            let old = self.back_up(path, state);
            SystemDisk.remove(path)?;
            state.undo.extend(old.map(|old| Undo::Remove { path: path.to_owned(), old }));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.next(false) {
            Outcome::Done => {
                let within = |path: &Path| path.parent() == Some(dir);
                state.undo.retain(|undo| match undo {
                    Undo::Write { .. } | Undo::Cut { .. } => true,
                    Undo::Rename { to: path, .. } | Undo::Remove { path, .. } => !within(path),
                });
                Ok(())
            }
            Outcome::Torn(_, error) => Err(error),
        }
    }
}
