//! Files that are read by offset, in the ways a system offers.

mod aligned;
mod auto;
mod cached;
mod direct;
mod mmap;
mod pread;
mod uring;

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::IoError;

pub(crate) use aligned::{AlignedBuf, read_full};
pub(crate) use auto::{ORDER, first_that_works};
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

    /// Returns what the system says of the file that is open, for storage that is one. `None`, as by default, for storage whose
    /// bytes are no plain file's.
    ///
    /// # Errors
    /// Whatever the system says.
    fn file_metadata(&self) -> io::Result<Option<Metadata>> {
        Ok(None)
    }

    /// Tells the system to read what it is asked for and nothing ahead of that, as a [`Reader`](crate::Reader) does that lets go
    /// of what it read. By default nothing is done.
    fn advise_random(&self) {}

    /// Has the system let go of what its page cache holds of a range that was read, and returns whether it held some, as far
    /// as can be told. A [`Reader`](crate::Reader) does so behind each chunk, unless it is to
    /// [keep](crate::ReaderConfig::keep_cached) them.
    ///
    /// By default nothing is done: for storage that has no page cache, or wants it.
    fn drop_cached(&self, _offset: u64, _len_bytes: usize) -> bool {
        false
    }

    /// The file, for storage that wants the reads of a [`Reader`](crate::Reader) to be made through io_uring. `None`, as
    /// by default, for storage that is read by calling [`read_at`](Self::read_at).
    fn ring_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What becomes of a read at `offset` that io_uring made: the place where tests let it fail.
    ///
    /// # Errors
    /// What the system said, unless a test says otherwise.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn ring_outcome(&self, _offset: u64, outcome: io::Result<usize>) -> io::Result<usize> {
        outcome
    }
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum IoMode {
    /// The first that works of [`Uring`](Self::Uring), [`Direct`](Self::Direct) and [`Pread`](Self::Pread). Which is the
    /// fastest, and how it is best used, is what [`Tuning`](crate::Tuning) finds out.
    #[default]
    Auto,
    /// Reads that bypass the page cache, handed to the kernel through io_uring (Linux): one thread keeps the disk busy,
    /// and reads that are stuck can be cancelled.
    Uring,
    /// Reads that bypass the page cache, made by threads: `O_DIRECT` on Linux, `F_NOCACHE` on macOS. Where the file
    /// system has it.
    Direct,
    /// `pread` through the page cache of the system, made by threads. Works everywhere. On Linux a [`Reader`](crate::Reader)
    /// has the cache let go of each chunk behind it.
    Pread,
    /// Copies out of a memory map, which stay in the page cache.
    Mmap,
}

impl IoMode {
    /// Every mode there is to choose from: all but [`Auto`](Self::Auto).
    pub const ALL: &'static [IoMode] = &[IoMode::Uring, IoMode::Direct, IoMode::Pread, IoMode::Mmap];

    /// The name, as [`FromStr`] takes it.
    pub const fn name(self) -> &'static str {
        match self {
            IoMode::Auto => "auto",
            IoMode::Uring => "uring",
            IoMode::Direct => "direct",
            IoMode::Pread => "pread",
            IoMode::Mmap => "mmap",
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
        let mut all = [IoMode::Auto].iter().chain(Self::ALL).copied();
        let found = all.find(|mode| mode.name() == name);
        found.ok_or_else(|| IoError::UnknownMode { given: name.to_owned() })
    }
}

/// Opens a file for reading.
///
/// # Errors
/// [`IoError::Open`] if it cannot be opened, [`IoError::DirectUnsupported`] or [`IoError::DirectAlignment`]
/// if its file system cannot do direct reads as this crate makes them, [`IoError::UringUnsupported`] if the system has
/// no io_uring for this process. With [`IoMode::Auto`] only the first.
pub fn open(path: &Path, mode: IoMode) -> Result<Arc<dyn ReadAt>, IoError> {
    Ok(match mode {
        IoMode::Auto => auto::open(path)?,
        IoMode::Uring => Arc::new(uring::UringFile::open(path)?),
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
