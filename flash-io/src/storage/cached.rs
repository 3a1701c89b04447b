//! What the page cache of the system holds of a file.
//!
//! A model that is streamed is read from end to end, again and again: a cache that is smaller than the model has never what
//! comes next, and each page that it takes is one that it takes from others. Direct reads leave nothing there, but not every file
//! system makes them: some refuse them, and some accept the flag and read through the cache all the same (Btrfs does
//! where a file is compressed).

use std::fs::File;

/// Has the system read what it is asked for and nothing ahead of it. What it reads ahead it keeps in large runs of pages, and
/// a run can only be let go of as a whole: of a file read in chunks of 1 MiB, 96 % stayed.
#[cfg(target_os = "linux")]
pub(super) fn advise_random(file: &File) {
    if let Err(error) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random) {
        tracing::debug!(%error, "the system reads ahead");
    }
}

/// Has the system let go of a range that was read, and returns whether its cache held some of it: what read it `directly` is
/// asked about, if the system tells.
#[cfg(target_os = "linux")]
pub(super) fn drop_range(file: &File, offset: u64, len_bytes: usize, directly: bool) -> bool {
    use rustix::fs::{Advice, fadvise};

    let Some(len) = std::num::NonZeroU64::new(len_bytes as u64) else { return false };
    let cached_pages = if directly { cached_pages(file, offset, len.get()) } else { Some(1) };
    if cached_pages == Some(0) {
        return false;
    }
    // Whole pages only: those at the ends stay if the range begins or ends within them.
    if let Err(error) = fadvise(file, offset, Some(len), Advice::DontNeed) {
        tracing::debug!(%error, offset, "the page cache was not told to let go");
    }
    cached_pages.is_some()
}

/// How many pages of a range the cache holds; `None` before Linux 6.5, and of files of others.
///
/// A read that does not wait would tell, too, but brings the page that it does not find.
#[cfg(target_os = "linux")]
fn cached_pages(file: &File, offset: u64, len_bytes: u64) -> Option<u64> {
    use std::os::fd::AsRawFd;

    /// The same on every architecture.
    const SYS_CACHESTAT: libc::c_long = 451;

    let range = [offset, len_bytes];
    // Pages in the cache, dirty, under writeback, evicted, and evicted of late.
    let mut counts = [0_u64; 5];
    #[expect(unsafe_code, reason = "no library has this call")]
    // SAFETY: the kernel reads the two numbers of a `struct cachestat_range` and writes the five of a `struct cachestat`,
    // which these arrays are in size and alignment; both outlive the call, and it keeps neither address.
    let status = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0 as libc::c_uint)
    };
    (status == 0).then_some(counts[0])
}

#[cfg(not(target_os = "linux"))]
pub(super) fn advise_random(_file: &File) {}

#[cfg(not(target_os = "linux"))]
pub(super) fn drop_range(_file: &File, _offset: u64, _len_bytes: usize, _directly: bool) -> bool {
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

    /// Reads a whole file in chunks; returns what the reader did, and how many pages of the file are in the cache then. `None`
    /// where the system does not tell, or has the file nowhere else, as on tmpfs.
    fn read_all(mode: IoMode, keep_cached: bool) -> Option<(Stats, u64)> {
        // Beside the test itself: on a disk, where it has been built on one.
        let exe = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(exe.parent().unwrap()).unwrap();
        let path = dir.path().join("shard");
        std::fs::write(&path, vec![7; FILE_BYTES]).unwrap();
        let file = File::open(&path).unwrap();
        // Pages that are not on the disk yet cannot be let go of.
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
        let slot = Slot::alone(&Budget::new(4 << 20), bundle.slot_bytes()).unwrap();
        let slot = reader.submit(&bundle, slot).wait().unwrap();
        assert!(slot[..FILE_BYTES].iter().all(|&byte| byte == 7));
        Some((reader.stats(), cached_pages().unwrap()))
    }

    #[test]
    fn page_cache_lets_go_of_what_was_read_and_that_is_counted() {
        for mode in [IoMode::Uring, IoMode::Direct, IoMode::Pread] {
            let Some((stats, cached_pages)) = read_all(mode, false) else { continue };
            assert_eq!(cached_pages, 0, "{mode}");
            if mode == IoMode::Pread {
                assert_eq!(stats.cached_bytes, FILE_BYTES as u64);
            }
        }
    }

    #[test]
    fn page_cache_is_left_alone_where_it_is_to_keep_what_was_read() {
        let Some((stats, _)) = read_all(IoMode::Pread, true) else { return };
        assert_eq!(stats.cached_bytes, 0);
    }
}
