//! The interface to the bytes of a file.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::fd::BorrowedFd;

/// Storage that threads read concurrently, each at its own offset.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// Reads from `offset` into `buf` and returns the number of bytes read: fewer than `buf` holds at the end of the
    /// file or if the system returns fewer, 0 at and past the end.
    ///
    /// # Errors
    /// The operating system's error; [`io::ErrorKind::InvalidInput`] if [`alignment`](Self::alignment) is violated.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Returns the current length of the file in bytes.
    ///
    /// # Errors
    /// The operating system's error.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Returns the alignment of every read's offset, length and address, in bytes: a power of two, 1 for storage
    /// without such a requirement.
    fn alignment(&self) -> usize;

    /// Returns the metadata of the open file. `None`, the default, for storage that is not a regular file.
    ///
    /// # Errors
    /// The operating system's error.
    fn file_metadata(&self) -> io::Result<Option<Metadata>> {
        Ok(None)
    }

    /// Disables the system's read-ahead for this file. The default does nothing.
    ///
    /// A [`Reader`](crate::Reader) that evicts what it has read calls this once for each shard.
    fn advise_random(&self) {}

    /// Evicts a range that was read from the page cache, and returns whether the cache held some of it, as far as is
    /// known.
    ///
    /// A [`Reader`](crate::Reader) calls this after each chunk, unless
    /// [`keep_cached`](crate::ReaderConfig::keep_cached) is set. The default does nothing, for storage without a page
    /// cache or that should stay cached.
    fn drop_cached(&self, _offset: u64, _len_bytes: usize) -> bool {
        false
    }

    /// Returns the file descriptor of storage that a [`Reader`](crate::Reader) reads through io_uring. `None`, the
    /// default, for storage read by calling [`read_at`](Self::read_at).
    fn ring_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Returns the result of a read at `offset` by io_uring, given the kernel's `outcome`: tests inject faults here.
    ///
    /// # Errors
    /// The error in `outcome`, or an injected one.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn ring_outcome(&self, _offset: u64, outcome: io::Result<usize>) -> io::Result<usize> {
        outcome
    }
}
