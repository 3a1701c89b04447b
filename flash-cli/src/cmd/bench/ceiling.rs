//! The read ceiling of the disk: its throughput while nothing else runs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use flash_io::measure::{Offsets, RawFile, RawReads};
use flash_io::{Budget, Catalog, IoError, Slot, Tuning};

/// Read sizes in bytes and queue depths to try beside those of the engine. Some disks are fastest at a small depth,
/// others at a large one.
const READS: [(usize, usize); 4] = [(1 << 20, 2), (1 << 20, 4), (1 << 20, 8), (2 << 20, 4)];
/// Memory that a measurement takes besides its buffer.
const OTHER_BYTES: u64 = 64 << 10;
/// Time per read size and depth, long enough to average fluctuations of the disk.
const TIME: Duration = Duration::from_millis(400);

/// Measures the read ceiling with the largest shard of a model, without reading a part twice if the shard is long
/// enough.
pub(super) struct Ceiling {
    file: RawFile,
    offsets: Offsets,
    /// Read sizes and queue depths.
    reads: Vec<(usize, usize)>,
}

impl Ceiling {
    /// Prepares to measure the disk of `model`, which an engine reads with `tuning`.
    pub(super) fn of(model: &Catalog, tuning: Tuning) -> anyhow::Result<Self> {
        let (shard, shard_bytes) = largest_shard(model)?;
        let (file, offsets) = (RawFile::open(&shard, tuning.mode)?, Offsets::new(shard_bytes));
        // As many reads as the engine has in flight: with fewer, decoding seems to exceed the limit.
        let engine = (tuning.chunk_bytes, tuning.chunks_in_flight());
        Ok(Self { file, offsets, reads: READS.into_iter().chain([engine]).collect() })
    }

    /// Returns the memory that a measurement takes while it runs.
    pub(super) fn bytes(&self) -> u64 {
        self.buffer_bytes() as u64 + OTHER_BYTES
    }

    fn buffer_bytes(&self) -> usize {
        self.reads.iter().map(|(read_bytes, depth)| read_bytes * depth).max().unwrap_or(0)
    }

    /// Returns the current ceiling in bytes per second.
    pub(super) fn measure(&mut self) -> anyhow::Result<f64> {
        let mut buffer = Slot::unpooled(&Budget::new(u64::MAX), self.buffer_bytes())?;
        // The first access to an OS page is slower.
        buffer.fill(1);
        self.file.make_cold();
        let mut max = 0.0_f64;
        for &(read_bytes, depth) in &self.reads {
            let reads = RawReads { read_bytes, depth, time: TIME, bytes: u64::MAX };
            let sample = self.file.sample(reads, &mut self.offsets, &mut buffer)?;
            max = max.max(sample.bytes_per_s());
        }
        if max > 0.0 { Ok(max) } else { bail!("the model is too small to measure the disk with") }
    }
}

/// Returns the path and size of the largest shard of a model.
pub(super) fn largest_shard(model: &Catalog) -> Result<(PathBuf, u64), IoError> {
    let mut largest = (PathBuf::new(), 0);
    for path in model.shards().iter().map(|shard| &shard.path) {
        let metadata = fs::metadata(path).map_err(|error| IoError::Open { path: path.clone(), error })?;
        if metadata.len() > largest.1 {
            largest = (path.clone(), metadata.len());
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use flash_io::IoMode;

    use super::*;

    #[test]
    fn disk_is_measured_with_as_many_reads_as_the_engine_has_in_flight() {
        let dir = tempfile::tempdir().unwrap();
        let header = br#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let shard = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        fs::write(dir.path().join("model.safetensors"), shard).unwrap();
        let model = Catalog::open(dir.path(), IoMode::Pread).unwrap();
        let tuning = |mode| Tuning { mode, depth: 16, chunk_bytes: 1 << 20 };
        assert_eq!(tuning(IoMode::Uring).chunks_in_flight(), 32, "an io_uring has twice its depth");
        let ceiling = Ceiling::of(&model, tuning(IoMode::Pread)).unwrap();
        assert!(ceiling.reads.contains(&(1 << 20, 16)));
        assert_eq!(ceiling.bytes(), (16 << 20) + OTHER_BYTES);
    }
}
