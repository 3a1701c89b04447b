//! Storage that fails on demand, for tests. Needs the feature `testing`.
//!
//! Reads that io_uring makes are made, and fail when they have ended.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;

use crate::storage::ReadAt;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The read ends with `EIO`.
    Eio,
    /// The read ends with `EINTR`.
    Interrupted,
    /// The read ends with `ENOMEM`.
    NoMemory,
    /// The read ends with `EACCES`, which no retry helps.
    Denied,
    /// The read returns half of its bytes, but at least one, or a block if the storage is read in blocks.
    Short,
    /// The read returns so many bytes at most.
    AtMost {
        /// How many.
        bytes: usize,
    },
    /// The read returns nothing, as if the file ended before it.
    Empty,
    /// The read ends as if the file had been cut to this length.
    Truncated {
        /// Length of the file as it appears.
        len_bytes: u64,
    },
    /// The read panics.
    Panic,
}

/// Which reads it goes wrong for; they are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// The `n`-th read only.
    Nth(u64),
    /// Every read whose number is a multiple of `n`.
    EveryNth(u64),
    /// One in `n` reads, as if by chance. Threads that read in turns, and share the count, cannot fall into step with it
    /// so that one of them gets every fault.
    OneIn(u64),
    /// The `n`-th read and all after it.
    From(u64),
}

impl When {
    fn includes(self, read_idx: u64) -> bool {
        match self {
            When::Nth(n) => read_idx == n,
            When::EveryNth(n) => read_idx.is_multiple_of(n),
            When::OneIn(n) => scatter(read_idx).is_multiple_of(n),
            When::From(n) => read_idx >= n,
        }
    }
}

/// The finalizer of `SplitMix64`: neighbours become unlike each other.
fn scatter(idx: u64) -> u64 {
    let mut z = idx.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Storage that passes reads on to another, except for those that are to fail.
#[derive(Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn ReadAt>,
    fault: Fault,
    when: When,
    reads: AtomicU64,
    healed: AtomicBool,
}

impl FaultyStorage {
    /// Storage over `inner` with one kind of fault.
    pub fn new(inner: Arc<dyn ReadAt>, fault: Fault, when: When) -> Self {
        Self { inner, fault, when, reads: AtomicU64::new(0), healed: AtomicBool::new(false) }
    }

    /// How many reads were made, failed ones included.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Passes every read on from now on.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::SeqCst);
    }
}

impl ReadAt for FaultyStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.fails_now() {
            self.fail(offset, || self.inner.read_at(offset, buf))
        } else {
            self.inner.read_at(offset, buf)
        }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let len_bytes = self.inner.len_bytes()?;
        Ok(match self.fault {
            Fault::Truncated { len_bytes: cut_bytes } if !self.is_healed() => len_bytes.min(cut_bytes),
            _ => len_bytes,
        })
    }

    fn file_metadata(&self) -> io::Result<Option<std::fs::Metadata>> {
        self.inner.file_metadata()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn advise_random(&self) {
        self.inner.advise_random();
    }

    fn drop_cached(&self, offset: u64, len_bytes: usize) -> bool {
        self.inner.drop_cached(offset, len_bytes)
    }

    fn ring_file(&self) -> Option<BorrowedFd<'_>> {
        self.inner.ring_file()
    }

    fn ring_outcome(&self, offset: u64, outcome: io::Result<usize>) -> io::Result<usize> {
        if self.fails_now() { self.fail(offset, || outcome) } else { outcome }
    }
}

impl FaultyStorage {
    fn is_healed(&self) -> bool {
        self.healed.load(Ordering::SeqCst)
    }

    fn fails_now(&self) -> bool {
        let read_idx = self.reads.fetch_add(1, Ordering::SeqCst);
        self.when.includes(read_idx) && !self.is_healed()
    }

    /// What the fault makes of a read.
    fn fail(&self, offset: u64, read: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        match self.fault {
            Fault::Eio => Err(Errno::IO.into()),
            Fault::Interrupted => Err(Errno::INTR.into()),
            Fault::NoMemory => Err(Errno::NOMEM.into()),
            Fault::Denied => Err(Errno::ACCESS.into()),
            Fault::Short => {
                let n = read()?;
                Ok((n / 2).max(1).next_multiple_of(self.alignment()).min(n))
            }
            Fault::AtMost { bytes } => Ok(read()?.min(bytes)),
            Fault::Empty => Ok(0),
            Fault::Truncated { len_bytes } => {
                let left_bytes = usize::try_from(len_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
                Ok(read()?.min(left_bytes))
            }
            Fault::Panic => panic!("a read that was to panic"),
        }
    }
}
