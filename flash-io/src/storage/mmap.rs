//! Copies out of a memory map.
//!
//! A load from a mapped page behind the end of its file kills the process with `SIGBUS`, so every copy
//! first asks for the present length and stays in front of it. What remains is a race of microseconds: a
//! file that shrinks *between* that question and the copy still kills. Other modes have no such race.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use super::{ReadAt, open_file};
use crate::error::IoError;

/// Bytes that are copied before their pages are let go of: what a reader thread adds to the resident set.
const WINDOW_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct MmapFile {
    file: File,
    map: Mmap,
}

impl MmapFile {
    pub(super) fn open(path: &Path) -> Result<Self, IoError> {
        let file = open_file(path, || File::open(path))?;
        #[expect(unsafe_code, reason = "a file can be mapped in no other way")]
        // SAFETY: the bytes are only ever copied out by `copy_window`, which expects them to change, so no
        // reference that the optimiser trusts is held while another process writes the file.
        let mapped = unsafe { Mmap::map(&file) };
        match mapped {
            Ok(map) => Ok(Self { file, map }),
            Err(error) => Err(IoError::Open { path: path.to_owned(), error }),
        }
    }

    /// Copies one window at `start` of the map, which must not reach past the end of the file.
    fn copy_window(&self, start: usize, buf: &mut [u8]) {
        assert!(start + buf.len() <= self.map.len(), "a window lies in its map");
        #[expect(unsafe_code, reason = "a slice of the map would promise that nobody writes the file")]
        // SAFETY: the assertion keeps the source inside the map and `buf` is memory of ours outside of it;
        // the copy goes through raw pointers, so bytes that change meanwhile are read as either value, as
        // `pread` would.
        unsafe {
            std::ptr::copy_nonoverlapping(self.map.as_ptr().add(start), buf.as_mut_ptr(), buf.len());
        }
        #[expect(unsafe_code, reason = "mapped pages count as resident until they are let go of")]
        // SAFETY: in a shared read-only map of a file this drops page-table entries, nothing else; a thread
        // that copies from the same pages faults them in again with the same bytes.
        let advised = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, buf.len()) };
        if let Err(error) = advised {
            tracing::debug!(%error, start, "pages of a map were not let go of");
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
