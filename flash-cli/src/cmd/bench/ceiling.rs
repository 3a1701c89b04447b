//! What the disk gives at most, while nothing else is done.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use flash_io::measure::{Offsets, RawFile, RawReads};
use flash_io::{Budget, Catalog, IoError, IoMode, Slot};

/// As fio is asked to read: more at once gains nothing on most disks.
const READ_BYTES: usize = 1 << 20;
const DEPTH: usize = 8;
/// Memory that a measurement takes while it lasts.
pub(super) const BUFFER_BYTES: u64 = (READ_BYTES * DEPTH) as u64 + (64 << 10);
/// Long enough to even out the disk's moods.
const TIME: Duration = Duration::from_secs(1);

/// The largest shard of a model, read by itself, and no part of it twice as far as it is long enough.
pub(super) struct Ceiling {
    file: RawFile,
    offsets: Offsets,
}

impl Ceiling {
    pub(super) fn of(model: &Catalog, mode: IoMode) -> anyhow::Result<Self> {
        let (shard, shard_bytes) = largest_shard(model)?;
        Ok(Self { file: RawFile::open(&shard, mode)?, offsets: Offsets::new(shard_bytes) })
    }

    /// Bytes per second. Its buffer is given back.
    pub(super) fn measure(&mut self) -> anyhow::Result<f64> {
        let reads = RawReads { read_bytes: READ_BYTES, depth: DEPTH, time: TIME, bytes: u64::MAX };
        let mut buffer = Slot::alone(&Budget::new(u64::MAX), reads.buffer_bytes())?;
        // The first read into a page costs more than those after it.
        buffer.fill(1);
        self.file.make_cold();
        let sample = self.file.sample(reads, &mut self.offsets, &mut buffer)?;
        (sample.bytes > 0)
            .then(|| sample.bytes_per_s())
            .context("the model is too small to measure the disk with")
    }
}

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
