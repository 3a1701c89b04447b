//! Files that are read by offset, in the three ways a system offers.

mod aligned;
mod direct;
mod mmap;
mod pread;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::IoError;

pub(crate) use aligned::{AlignedBuf, read_full};
pub use direct::DIRECT_ALIGN;

/// A file that many threads read at once, each at its own offset.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// Reads from `offset` into `buf` and returns how many bytes it read: fewer than asked for at the end
    /// of the file or when the system gives fewer, 0 at and past the end.
    ///
    /// # Errors
    /// Whatever the system says; [`io::ErrorKind::InvalidInput`] if [`alignment`](Self::alignment) is
    /// violated.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The present length of the file in bytes.
    ///
    /// # Errors
    /// Whatever the system says.
    fn len_bytes(&self) -> io::Result<u64>;

    /// What offset, length and address of every read must be a multiple of, in bytes; a power of two, 1 for
    /// storage that reads anything.
    fn alignment(&self) -> usize;
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum IoMode {
    /// `pread` through the page cache of the system. Works everywhere.
    Pread,
    /// Copies out of a memory map.
    Mmap,
    /// Reads that bypass the page cache: `O_DIRECT` on Linux, `F_NOCACHE` on macOS. The fastest for models
    /// that are larger than memory, where the file system has it.
    #[default]
    Direct,
}

impl IoMode {
    /// Every mode.
    pub const ALL: &'static [IoMode] = &[IoMode::Pread, IoMode::Mmap, IoMode::Direct];

    /// The name, as [`FromStr`] takes it.
    pub const fn name(self) -> &'static str {
        match self {
            IoMode::Pread => "pread",
            IoMode::Mmap => "mmap",
            IoMode::Direct => "direct",
        }
    }
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for IoMode {
    type Err = IoError;

    fn from_str(name: &str) -> Result<Self, IoError> {
        let found = Self::ALL.iter().copied().find(|mode| mode.name() == name);
        found.ok_or_else(|| IoError::UnknownMode { given: name.to_owned() })
    }
}

/// Opens a file for reading.
///
/// # Errors
/// [`IoError::Open`] if it cannot be opened, [`IoError::DirectUnsupported`] or [`IoError::DirectAlignment`]
/// if its file system cannot do direct reads as this crate makes them.
pub fn open(path: &Path, mode: IoMode) -> Result<Arc<dyn ReadAt>, IoError> {
    Ok(match mode {
        IoMode::Pread => Arc::new(pread::PreadFile::open(path)?),
        IoMode::Mmap => Arc::new(mmap::MmapFile::open(path)?),
        IoMode::Direct => Arc::new(direct::DirectFile::open(path)?),
    })
}

/// Opens a plain file for reading. Anything else is refused before it is opened: a directory would fail only when it is
/// read, and a pipe would wait for a writer.
fn open_file(path: &Path, open: impl FnOnce() -> io::Result<File>) -> Result<File, IoError> {
    let opened = std::fs::metadata(path).and_then(|metadata| match metadata {
        metadata if metadata.is_file() => open(),
        metadata if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    });
    opened.map_err(|error| IoError::Open { path: path.to_owned(), error })
}
