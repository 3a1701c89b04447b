//! Storage with injected faults, for tests. Needs the feature `testing`.
//!
//! With io_uring the read itself succeeds, and the fault replaces its result.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;

use crate::storage::ReadAt;

/// An injected fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The read ends with `EIO`.
    Eio,
    /// The read ends with `EINTR`.
    Interrupted,
    /// The read ends with `ENOMEM`.
    NoMemory,
    /// The read ends with `EACCES`, which is not retried.
    Denied,
    /// The read returns half of its bytes, but at least one, or one block of aligned storage.
    Short,
    /// The read returns a limited number of bytes.
    AtMost {
        /// The limit.
        bytes: usize,
    },
    /// The read returns 0 bytes, as at the end of the file.
    Empty,
    /// The read ends as if the file had been truncated.
    Truncated {
        /// Apparent length of the file.
        len_bytes: u64,
    },
    /// The read panics.
    Panic,
}

/// The reads that a fault affects, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// The `n`-th read only.
    Nth(u64),
    /// Every read whose number is a multiple of `n`.
    EveryNth(u64),
    /// A pseudorandom one in `n` reads, so that threads that read in turn, and share the count, are hit alike.
    OneIn(u64),
    /// The `n`-th and all later reads.
    From(u64),
}

impl When {
    fn includes(self, read_idx: u64) -> bool {
        match self {
            When::Nth(n) => read_idx == n,
            When::EveryNth(n) => read_idx.is_multiple_of(n),
            When::OneIn(n) => hash(read_idx).is_multiple_of(n),
            When::From(n) => read_idx >= n,
        }
    }
}

/// Hashes a number with the finalizer of `SplitMix64`.
fn hash(idx: u64) -> u64 {
    let mut z = idx.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Storage that forwards reads to another, with injected faults.
#[derive(Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn ReadAt>,
    fault: Fault,
    when: When,
    reads: AtomicU64,
    healed: AtomicBool,
}

impl FaultyStorage {
    /// Wraps `inner` with one kind of fault.
    pub fn new(inner: Arc<dyn ReadAt>, fault: Fault, when: When) -> Self {
        Self { inner, fault, when, reads: AtomicU64::new(0), healed: AtomicBool::new(false) }
    }

    /// Returns the number of reads so far, including failed ones.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Stops injecting faults.
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

    /// Applies the fault to a read.
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
            Fault::Panic => panic!("an injected panic"),
        }
    }
}
