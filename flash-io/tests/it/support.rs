//! Helpers: safetensors files, storage in memory, temporary folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use flash_io::{Booking, Catalog, IoError, IoMode, ReadAt, open};

/// A file in memory.
#[derive(Debug)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn alignment(&self) -> usize {
        1
    }
}

/// Builds a whole file: length, header, data.
pub(crate) fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Builds a file of `U8` tensors, in the order given.
pub(crate) fn u8_file(tensors: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, bytes) in tensors {
        let (start, end) = (data.len(), data.len() + bytes.len());
        let len = bytes.len();
        entries.push(format!(r#""{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{start},{end}]}}"#));
        data.extend_from_slice(bytes);
    }
    file_of(&format!("{{{}}}", entries.join(",")), &data)
}

/// Generates pseudorandom bytes, different for each seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Creates a temporary folder in the target folder, which is likelier to support direct reads than an in-memory file
/// system.
pub(crate) fn disk_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Returns the modes that work in a directory, and prints the others.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn modes_in(dir: &Path) -> Vec<IoMode> {
    let probe = write(dir, "probe", [0; 16]);
    let works = |mode: &IoMode| match open(&probe, *mode) {
        Ok(_) => true,
        Err(
            error @ (IoError::UringUnsupported { .. }
            | IoError::DirectUnsupported { .. }
            | IoError::DirectAlignment { .. }),
        ) => {
            eprintln!("skipped {mode}: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    };
    IoMode::ALL.iter().copied().filter(works).collect()
}

/// Reads the bytes of a tensor with the standard library only.
pub(crate) fn expected(catalog: &Catalog, name: &str) -> Vec<u8> {
    let tensor = catalog.get(name).unwrap();
    let file = fs::read(&catalog.shards()[tensor.shard.0].path).unwrap();
    file[tensor.span.start as usize..tensor.span.end as usize].to_vec()
}

pub(crate) fn shared(bytes: Vec<u8>) -> Arc<dyn ReadAt> {
    Arc::new(Bytes(bytes))
}

/// Returns whether io_uring works here, and prints if not.
#[cfg(target_os = "linux")]
pub(crate) fn has_ring() -> bool {
    modes_in(disk_dir().path()).contains(&IoMode::Uring)
}

pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "timed out");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A chunk that may be read from an instant on.
#[derive(Debug)]
pub(crate) struct Until(pub(crate) Instant);

impl Booking for Until {
    fn pause(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
