//! Files read through io_uring.

#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::path::Path;

use super::read_at::ReadAt;
use crate::error::IoError;
use crate::mode::IoMode;

/// Direct file that a [`Reader`](crate::Reader) reads through its io_uring.
///
/// Small reads in the calling thread are ordinary direct reads.
#[derive(Debug)]
pub(super) struct UringFile {
    #[cfg(target_os = "linux")]
    direct: super::direct::DirectFile,
    #[cfg(not(target_os = "linux"))]
    never: std::convert::Infallible,
}

#[cfg(target_os = "linux")]
impl UringFile {
    pub(super) fn open(path: &Path) -> Result<Self, IoError> {
        let direct = super::direct::DirectFile::open(path)?;
        crate::ring_setup::availability().map_err(|error| IoError::UringUnsupported {
            path: path.to_owned(),
            error,
            alternative: IoMode::Direct,
        })?;
        Ok(Self { direct })
    }
}

#[cfg(target_os = "linux")]
impl ReadAt for UringFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.direct.read_at(offset, buf)
    }

    fn len_bytes(&self) -> std::io::Result<u64> {
        self.direct.len_bytes()
    }

    fn file_metadata(&self) -> std::io::Result<Option<std::fs::Metadata>> {
        self.direct.file_metadata()
    }

    fn alignment(&self) -> usize {
        self.direct.alignment()
    }

    fn advise_random(&self) {
        self.direct.advise_random();
    }

    fn drop_cached(&self, offset: u64, len_bytes: usize) -> bool {
        self.direct.drop_cached(offset, len_bytes)
    }

    fn ring_file(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        Some(self.direct.as_fd())
    }
}

#[cfg(not(target_os = "linux"))]
impl UringFile {
    pub(super) fn open(path: &Path) -> Result<Self, IoError> {
        Err(IoError::UringUnsupported {
            path: path.to_owned(),
            error: std::io::ErrorKind::Unsupported.into(),
            alternative: IoMode::Direct,
        })
    }
}

#[cfg(not(target_os = "linux"))]
impl ReadAt for UringFile {
    fn read_at(&self, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        match self.never {}
    }

    fn len_bytes(&self) -> std::io::Result<u64> {
        match self.never {}
    }

    fn alignment(&self) -> usize {
        match self.never {}
    }
}
