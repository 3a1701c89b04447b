//! Reads that bypass the page cache.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{IoMode, ReadAt, cached, open_file};
use crate::error::IoError;

/// What offset, length and address of the direct reads of this crate are multiples of, in bytes.
///
/// Devices ask for 512 or 4096; the layout of a bundle in a slot is made for the larger, whatever the mode,
/// so that it does not depend on the machine.
pub const DIRECT_ALIGN: usize = 4096;

#[derive(Debug)]
pub(super) struct DirectFile {
    file: File,
    /// The same file without the flag, which tells what the page cache holds of it.
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
    /// [`io::ErrorKind::InvalidInput`] if offset, length or address of the read is not aligned. The length
    /// may reach past the end of the file, the read is then short.
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
    use crate::storage::AlignedBuf;

    pub(super) fn open(path: &Path) -> Result<(File, usize), IoError> {
        let unsupported = || IoError::DirectUnsupported { path: path.to_owned(), alternative: IoMode::Pread };
        let unreadable = |error| IoError::Open { path: path.to_owned(), error };

        let flags = OFlags::DIRECT.bits() as i32;
        let opened = open_file(path, || File::options().read(true).custom_flags(flags).open(path));
        let file = opened.or_else(|error| match error {
            IoError::Open { error, .. } if refuses_direct(&error) => {
                // Also what opening a directory says: a file that cannot be opened at all has a better
                // reason.
                open_file(path, || File::open(path)).and_then(|_| Err(unsupported()))
            }
            other => Err(other),
        })?;
        match asked_alignment(&file).map_err(unreadable)? {
            Some(0) => Err(unsupported()),
            Some(align_bytes) => Ok((file, align_bytes)),
            None => match probe(&file) {
                Ok(()) => Ok((file, DIRECT_ALIGN)),
                Err(error) if refuses_direct(&error) => Err(unsupported()),
                Err(error) => Err(unreadable(error)),
            },
        }
    }

    /// What the kernel asks for: 0 if it makes no direct reads of this file, `None` before Linux 6.1 and on
    /// file systems that do not say.
    fn asked_alignment(file: &File) -> io::Result<Option<usize>> {
        let stat = match statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
            Ok(stat) => stat,
            Err(Errno::NOSYS) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
            return Ok(None);
        }
        let asked = stat.stx_dio_mem_align.max(stat.stx_dio_offset_align);
        Ok(Some(if asked == 0 { 0 } else { asked.next_power_of_two() as usize }))
    }

    /// Some file systems accept the flag and refuse the first read.
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

    /// `F_NOCACHE` accepts every read, but only aligned ones bypass the cache.
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
