//! Direct reads, which bypass the page cache.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::cached;
use super::file::open_file;
use super::read_at::ReadAt;
use crate::error::IoError;
use crate::mode::IoMode;

/// Alignment of offset, length and address of this crate's direct reads, in bytes.
///
/// Devices require 512 or 4096; bundles are laid out for the larger in every mode, so that the layout does not depend
/// on the machine.
pub const DIRECT_ALIGN: usize = 4096;

/// File opened for direct reads.
#[derive(Debug)]
pub(super) struct DirectFile {
    file: File,
    /// A handle of the file without the direct flag, for queries of the page cache.
    buffered: File,
    align_bytes: usize,
}

impl DirectFile {
    pub(super) fn open(path: &Path) -> Result<Self, IoError> {
        let (file, align_bytes) = platform::open(path)?;
        if align_bytes > DIRECT_ALIGN {
            return Err(IoError::DirectAlignment {
                path: path.to_owned(),
                wanted_bytes: align_bytes as u64,
                max_bytes: DIRECT_ALIGN as u64,
                alternative: IoMode::Pread,
            });
        }
        let buffered = open_file(path, || File::open(path))?;
        Ok(Self { file, buffered, align_bytes })
    }
}

impl AsFd for DirectFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl ReadAt for DirectFile {
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if offset, length or address of the read is not aligned. The range may reach
    /// past the end of the file, which makes the read short.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let align = self.align_bytes;
        if !offset.is_multiple_of(align as u64)
            || !buf.len().is_multiple_of(align)
            || !buf.as_ptr().addr().is_multiple_of(align)
        {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an unaligned direct read"));
        }
        self.file.read_at(buf, offset)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn file_metadata(&self) -> io::Result<Option<Metadata>> {
        self.file.metadata().map(Some)
    }

    fn alignment(&self) -> usize {
        self.align_bytes
    }

    fn advise_random(&self) {
        cached::advise_random(&self.file);
    }

    fn drop_cached(&self, offset: u64, len_bytes: usize) -> bool {
        cached::drop_range(&self.buffered, offset, len_bytes, true)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod platform {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
    use rustix::io::Errno;

    use super::*;
    use crate::storage::aligned::AlignedBuf;

    pub(super) fn open(path: &Path) -> Result<(File, usize), IoError> {
        let unsupported = || IoError::DirectUnsupported { path: path.to_owned(), alternative: IoMode::Pread };

        let flags = OFlags::DIRECT.bits() as i32;
        let opened = open_file(path, || File::options().read(true).custom_flags(flags).open(path));
        let file = opened.or_else(|error| match error {
            IoError::Open { error, .. } if refuses_direct(&error) => {
                // Opening a directory fails with the same error; a buffered open returns the more specific one.
                open_file(path, || File::open(path)).and_then(|_| Err(unsupported()))
            }
            other => Err(other),
        })?;
        match required_alignment(&file).map_err(IoError::cannot_open(path))? {
            Some(0) => Err(unsupported()),
            Some(align_bytes) => Ok((file, align_bytes)),
            None => match probe(&file) {
                Ok(()) => Ok((file, DIRECT_ALIGN)),
                Err(error) if refuses_direct(&error) => Err(unsupported()),
                Err(error) => Err(IoError::cannot_open(path)(error)),
            },
        }
    }

    /// Returns the alignment that the kernel requires: 0 if it does not support direct reads of this file, `None`
    /// before Linux 6.1 and on file systems that do not report it.
    fn required_alignment(file: &File) -> io::Result<Option<usize>> {
        let stat = match statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
            Ok(stat) => stat,
            Err(Errno::NOSYS) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
            return Ok(None);
        }
        let align = stat.stx_dio_mem_align.max(stat.stx_dio_offset_align);
        Ok(Some(if align == 0 { 0 } else { align.next_power_of_two() as usize }))
    }

    /// Makes a direct read: some file systems accept the flag and fail the first read.
    fn probe(file: &File) -> io::Result<()> {
        file.read_at(AlignedBuf::new(DIRECT_ALIGN, DIRECT_ALIGN).as_mut_slice(), 0).map(drop)
    }

    fn refuses_direct(error: &io::Error) -> bool {
        error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
            || error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
    }
}

#[cfg(target_vendor = "apple")]
mod platform {
    use super::*;

    /// Opens a file with `F_NOCACHE`, which accepts every read; only aligned ones bypass the cache.
    pub(super) fn open(path: &Path) -> Result<(File, usize), IoError> {
        let file = open_file(path, || File::open(path))?;
        match rustix::fs::fcntl_nocache(&file, true) {
            Ok(()) => Ok((file, DIRECT_ALIGN)),
            Err(_) => Err(IoError::DirectUnsupported { path: path.to_owned(), alternative: IoMode::Pread }),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod platform {
    use super::*;

    pub(super) fn open(path: &Path) -> Result<(File, usize), IoError> {
        Err(IoError::DirectUnsupported { path: path.to_owned(), alternative: IoMode::Pread })
    }
}
