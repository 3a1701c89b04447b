//! Reads through the page cache.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::cached;
use super::file::open_file;
use super::read_at::ReadAt;
use crate::error::IoError;

/// File read with `pread`.
#[derive(Debug)]
pub(super) struct PreadFile {
    file: File,
}

impl PreadFile {
    pub(super) fn open(path: &Path) -> Result<Self, IoError> {
        Ok(Self { file: open_file(path, || File::open(path))? })
    }
}

impl ReadAt for PreadFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn file_metadata(&self) -> io::Result<Option<Metadata>> {
        self.file.metadata().map(Some)
    }

    fn alignment(&self) -> usize {
        1
    }

    fn advise_random(&self) {
        cached::advise_random(&self.file);
    }

    fn drop_cached(&self, offset: u64, len_bytes: usize) -> bool {
        cached::drop_range(&self.file, offset, len_bytes, false)
    }
}
