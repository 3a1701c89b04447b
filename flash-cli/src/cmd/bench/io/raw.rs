//! Measures raw reads of one file for each mode, read size and depth.

use std::path::Path;
use std::time::Duration;

use flash_io::measure::{Offsets, RawFile, RawReads};
use flash_io::{Budget, IoError, IoMode, Slot};
use serde::Serialize;

use crate::output;

pub(super) const READ_BYTES: [usize; 6] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
pub(super) const DEPTHS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Limit of the bytes in flight. No disk gets faster with more.
const BUFFER_BYTES: usize = 128 << 20;
/// Time limit of a cell.
const TIME: Duration = Duration::from_millis(80);
/// Limit of the bytes read for a cell, except to fill its queue, so that the file lasts for all cells.
const BYTES: u64 = 64 << 20;

/// Throughput of a mode, read size and depth.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) io: &'static str,
    pub(super) read_bytes: usize,
    pub(super) depth: usize,
    pub(super) bytes_per_s: f64,
    pub(super) core_share: f64,
}

/// Measures each supported mode. The flag tells whether parts of the file were read more than once.
pub(super) fn measure(
    shard: &Path,
    shard_bytes: u64,
    modes: &[IoMode],
) -> Result<(Vec<Cell>, bool), IoError> {
    let mut offsets = Offsets::new(shard_bytes);
    let mut buffer = Slot::unpooled(&Budget::new(u64::MAX), BUFFER_BYTES)?;
    // The first access to an OS page is slower.
    buffer.fill(1);
    let mut cells = Vec::new();
    for &mode in modes {
        let file = match RawFile::open(shard, mode) {
            Ok(file) => file,
            Err(error @ IoError::Open { .. }) => return Err(error),
            Err(error) => {
                output::note(&format!("skipping {mode}: {error}"));
                continue;
            }
        };
        for read_bytes in READ_BYTES {
            for depth in DEPTHS {
                let bytes = BYTES.max(2 * (read_bytes * depth) as u64);
                let reads = RawReads { read_bytes, depth, time: TIME, bytes };
                if reads.buffer_bytes() > BUFFER_BYTES || read_bytes as u64 > shard_bytes / 4 {
                    continue;
                }
                file.make_cold();
                let sample = file.sample(reads, &mut offsets, &mut buffer)?;
                let (bytes_per_s, core_share) = (sample.bytes_per_s(), sample.core_share());
                cells.push(Cell { io: mode.name(), read_bytes, depth, bytes_per_s, core_share });
            }
        }
    }
    Ok((cells, offsets.repeats()))
}
