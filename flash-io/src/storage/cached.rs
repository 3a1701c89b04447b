//! Eviction of files from the page cache.
//!
//! A streamed model is read from end to end, again and again: a cache smaller than the model never holds the next
//! bytes, and evicts pages of other programs. Direct reads bypass the cache, but not every file system makes them: some
//! refuse them, and some accept the flag and read through the cache anyway (Btrfs does so for compressed files).

use std::fs::File;

/// Disables the system's read-ahead for a file.
///
/// Pages that were read ahead form large folios, which are evicted only as a whole: of a file read in chunks of 1 MiB,
/// 96 % stayed in the cache.
#[cfg(target_os = "linux")]
pub(super) fn advise_random(file: &File) {
    if let Err(error) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random) {
        tracing::debug!(%error, "the system's read-ahead stays enabled");
    }
}

/// Evicts a range from the page cache after a read, and returns whether the cache held some of it.
///
/// A buffered read always fills the cache; after a `direct` read the system is queried, and `false` returned if it
/// cannot tell.
#[cfg(target_os = "linux")]
pub(super) fn drop_range(file: &File, offset: u64, len_bytes: usize, direct: bool) -> bool {
    use rustix::fs::{Advice, fadvise};

    let Some(len) = std::num::NonZeroU64::new(len_bytes as u64) else { return false };
    let cached_pages = if direct { cached_pages(file, offset, len.get()) } else { Some(1) };
    if cached_pages == Some(0) {
        return false;
    }
    // The system evicts whole pages only: a partial page at either end of the range stays.
    if let Err(error) = fadvise(file, offset, Some(len), Advice::DontNeed) {
        tracing::debug!(%error, offset, "a range stays in the page cache");
    }
    cached_pages.is_some()
}

/// Returns the number of pages of a range in the cache; `None` before Linux 6.5, and for files of other users.
///
/// A read with `RWF_NOWAIT` is no substitute: it starts reading the pages that it does not find.
#[cfg(target_os = "linux")]
fn cached_pages(file: &File, offset: u64, len_bytes: u64) -> Option<u64> {
    use std::os::fd::AsRawFd;

    /// System call number, the same on all architectures.
    const SYS_CACHESTAT: libc::c_long = 451;

    let range = [offset, len_bytes];
    // The fields are pages in the cache, dirty, under writeback, evicted, and recently evicted.
    let mut counts = [0_u64; 5];
    #[expect(unsafe_code, reason = "no library wraps this system call")]
    // SAFETY: the kernel reads the two numbers of a `struct cachestat_range` and writes the five of a `struct
    // cachestat`, whose size and alignment these arrays have; both outlive the call, and the kernel keeps neither
    // address.
    let status = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0 as libc::c_uint)
    };
    (status == 0).then_some(counts[0])
}

#[cfg(not(target_os = "linux"))]
pub(super) fn advise_random(_file: &File) {}

#[cfg(not(target_os = "linux"))]
pub(super) fn drop_range(_file: &File, _offset: u64, _len_bytes: usize, _direct: bool) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::Arc;

    use rustix::fs::{Advice, fadvise};

    use super::*;
    use crate::{
        Budget, BundleLayout, IoError, IoMode, Reader, ReaderConfig, Shard, ShardIdx, Slot, Span, Stats,
    };

    const FILE_BYTES: usize = 1 << 20;

    /// Reads a whole file in chunks; returns the reader's statistics and the number of cached pages afterwards. `None`
    /// if the system cannot count them, or keeps the file in memory only, as tmpfs does.
    fn read_all(mode: IoMode, keep_cached: bool) -> Option<(Stats, u64)> {
        // The folder of the test binary, which is on a disk if the target folder is.
        let exe = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(exe.parent().unwrap()).unwrap();
        let path = dir.path().join("shard");
        std::fs::write(&path, vec![7; FILE_BYTES]).unwrap();
        let file = File::open(&path).unwrap();
        // Dirty pages cannot be evicted.
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let cached_pages = || cached_pages(&file, 0, FILE_BYTES as u64);
        let shard = match Shard::open(path, mode) {
            Ok(shard) if cached_pages() == Some(0) => shard,
            Ok(_)
            | Err(
                IoError::UringUnsupported { .. }
                | IoError::DirectUnsupported { .. }
                | IoError::DirectAlignment { .. },
            ) => return None,
            Err(error) => panic!("{error}"),
        };
        let config = ReaderConfig { chunk_bytes: 128 << 10, keep_cached, ..ReaderConfig::default() };
        let reader = Reader::new(vec![shard], config).unwrap();
        let bundle = Arc::new(BundleLayout::new(&[(ShardIdx(0), Span::new(0, FILE_BYTES as u64))]));
        let slot = Slot::unpooled(&Budget::new(4 << 20), bundle.slot_bytes()).unwrap();
        let slot = reader.submit(&bundle, slot).wait().unwrap();
        assert!(slot[..FILE_BYTES].iter().all(|&byte| byte == 7));
        Some((reader.stats(), cached_pages().unwrap()))
    }

    #[test]
    fn chunks_are_evicted_from_the_page_cache_and_counted() {
        for mode in [IoMode::Uring, IoMode::Direct, IoMode::Pread] {
            let Some((stats, cached_pages)) = read_all(mode, false) else { continue };
            assert_eq!(cached_pages, 0, "{mode}");
            if mode == IoMode::Pread {
                assert_eq!(stats.cached_bytes, FILE_BYTES as u64);
            }
        }
    }

    #[test]
    fn keep_cached_evicts_nothing() {
        let Some((stats, _)) = read_all(IoMode::Pread, true) else { return };
        assert_eq!(stats.cached_bytes, 0);
    }
}
