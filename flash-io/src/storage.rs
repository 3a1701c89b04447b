//! Files read by offset, one implementation per I/O mode.

mod aligned;
mod auto;
mod cached;
mod direct;
mod file;
mod mmap;
mod pread;
mod read_at;
mod uring;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::IoError;
use crate::mode::IoMode;

pub(crate) use aligned::{AlignedBuf, read_full};
pub(crate) use auto::{ORDER, first_that_works};
pub use direct::DIRECT_ALIGN;
pub use read_at::ReadAt;

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
/// [`IoError::Open`] if it cannot be opened, [`IoError::DirectUnsupported`] or [`IoError::DirectAlignment`] if its file
/// system does not support the direct reads of this crate, [`IoError::UringUnsupported`] if this process cannot create
/// an io_uring. With [`IoMode::Auto`] only the first.
pub fn open(path: &Path, mode: IoMode) -> Result<Arc<dyn ReadAt>, IoError> {
    Ok(match mode {
        IoMode::Auto => first_that_works(ORDER, |mode| open(path, mode))?.1,
        IoMode::Uring => Arc::new(uring::UringFile::open(path)?),
        IoMode::Pread => Arc::new(pread::PreadFile::open(path)?),
        IoMode::Mmap => Arc::new(mmap::MmapFile::open(path)?),
        IoMode::Direct => Arc::new(direct::DirectFile::open(path)?),
    })
}
