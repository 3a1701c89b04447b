//! Reads by copying out of a memory map.
//!
//! A load from a mapped page past the end of its file kills the process with `SIGBUS`, so every copy first queries the
//! current length and stays below it. A race of microseconds remains: a file that shrinks *between* the query and the
//! copy still kills the process. Other modes have no such race.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use super::file::open_file;
use super::read_at::ReadAt;
use crate::error::IoError;

/// Bytes copied before their pages are dropped: a reader thread's share of the resident set.
const WINDOW_BYTES: usize = 1 << 20;

/// Memory-mapped file.
#[derive(Debug)]
pub(super) struct MmapFile {
    file: File,
    map: Mmap,
}

impl MmapFile {
    pub(super) fn open(path: &Path) -> Result<Self, IoError> {
        let file = open_file(path, || File::open(path))?;
        #[expect(unsafe_code, reason = "mapping a file is unsafe")]
        // SAFETY: only `copy_window` accesses the bytes, and expects them to change, so no reference that the optimizer
        // trusts exists while another process writes the file.
        let mapped = unsafe { Mmap::map(&file) };
        let map = mapped.map_err(IoError::cannot_open(path))?;
        Ok(Self { file, map })
    }

    /// Copies the window at `start` of the map, which must end before the end of the file.
    fn copy_window(&self, start: usize, buf: &mut [u8]) {
        assert!(start + buf.len() <= self.map.len(), "a window lies in its map");
        #[expect(unsafe_code, reason = "a slice of the map would assert that no process writes the file")]
        // SAFETY: the assertion keeps the source inside the map, and `buf` is our memory outside of it; the copy goes
        // through raw pointers, so bytes that change meanwhile are read as either value, as `pread` would.
        unsafe {
            std::ptr::copy_nonoverlapping(self.map.as_ptr().add(start), buf.as_mut_ptr(), buf.len());
        }
        #[expect(unsafe_code, reason = "mapped pages count as resident until they are dropped")]
        // SAFETY: in a shared read-only map of a file this drops page-table entries, nothing else; a thread that copies
        // from the same pages faults them in again with the same bytes.
        let advised = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, buf.len()) };
        if let Err(error) = advised {
            tracing::debug!(%error, start, "pages of a map stay resident");
        }
    }
}

impl ReadAt for MmapFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut got_bytes = 0;
        for window in buf.chunks_mut(WINDOW_BYTES) {
            let mapped_bytes = self.len_bytes()?.min(self.map.len() as u64);
            let start = offset.saturating_add(got_bytes as u64);
            let len_bytes = mapped_bytes.saturating_sub(start).min(window.len() as u64) as usize;
            if len_bytes > 0 {
                self.copy_window(start as usize, &mut window[..len_bytes]);
                got_bytes += len_bytes;
            }
            if len_bytes < window.len() {
                break;
            }
        }
        Ok(got_bytes)
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
}
