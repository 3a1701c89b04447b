//! The I/O modes.

use std::fmt;

/// The system interface through which files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum IoMode {
    /// The first that works of [`Uring`](Self::Uring), [`Direct`](Self::Direct) and [`Pread`](Self::Pread). To find the
    /// fastest mode and its parameters, use [`Tuning`](crate::Tuning).
    #[default]
    Auto,
    /// Direct reads through io_uring (Linux): they bypass the page cache, one thread keeps the disk busy, and stuck
    /// reads can be cancelled.
    Uring,
    /// Direct reads by a pool of threads, which bypass the page cache: `O_DIRECT` on Linux, `F_NOCACHE` on macOS. Needs
    /// support by the file system.
    Direct,
    /// `pread` through the page cache, by a pool of threads. Works everywhere. On Linux a [`Reader`](crate::Reader)
    /// evicts each chunk from the cache after reading it.
    Pread,
    /// Copies out of a memory map; the data stays in the page cache.
    Mmap,
}

impl IoMode {
    /// All modes but [`Auto`](Self::Auto).
    pub const ALL: &'static [IoMode] = &[IoMode::Uring, IoMode::Direct, IoMode::Pread, IoMode::Mmap];

    /// Returns the name, which [`FromStr`](std::str::FromStr) parses.
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
