//! How a device is best read: a short probe, and a file that keeps what it found.

mod cache;
mod device;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::catalog::is_shard;
use crate::error::IoError;
use crate::measure::{Offsets, RawFile, RawReads};
use crate::pool::Slot;
use crate::reader::ReaderConfig;
use crate::storage::{self, DIRECT_ALIGN, IoMode};

/// How to read the files of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// What to open them with; not [`IoMode::Auto`], if there is a model at all.
    pub mode: IoMode,
    /// Reads at once, for [`ReaderConfig::depth`].
    pub depth: usize,
    /// Bytes of one read, for [`ReaderConfig::chunk_bytes`].
    pub chunk_bytes: usize,
}

impl From<Tuning> for ReaderConfig {
    /// The usual configuration, with depth and chunks of the tuning.
    fn from(Tuning { depth, chunk_bytes, .. }: Tuning) -> Self {
        Self { depth, chunk_bytes, ..Self::default() }
    }
}

/// What the probe tries: bytes of a read, and reads at once. Few bytes under way first: where several are as fast, they
/// leave the device the most freedom to serve others. The product is bounded, for the probe counts against the memory of
/// whoever runs it.
const GRID: [(usize, usize); 7] =
    [(1 << 20, 2), (512 << 10, 8), (1 << 20, 4), (2 << 20, 2), (512 << 10, 16), (1 << 20, 8), (2 << 20, 4)];
/// One measurement ends after this time, or these bytes: some rounds of the deepest queue of the grid.
const TIME: Duration = Duration::from_millis(12);
const BYTES: u64 = 16 << 20;
/// All of the grid is measured so often; the best time counts, for what disturbs a disk only makes it slower.
const ROUNDS: usize = 2;
/// The probe as a whole ends about then, on a disk so slow that it hardly matters how it is read.
const TIME_MAX: Duration = Duration::from_millis(400);
/// As fast as the fastest: what is within the noise of such short measurements.
const AS_FAST: f64 = 0.93;
/// A file shorter than this, in bytes, is not worth probing, and would have to be read again and again for it.
const FILE_BYTES_MIN: u64 = 64 << 20;

impl Tuning {
    /// Finds out how the model in `dir` is best read, if `mode` leaves it open: [`IoMode::Auto`] anything, a direct mode
    /// its depth and chunks. It takes a tenth of a second or so and 8 MiB of memory, and reads the largest shard.
    /// What it finds is kept in `cache`, if there is one, for all models on the same device.
    ///
    /// It never fails: where nothing can be found out (no model, a small one, a full disk), it is what works on most
    /// machines, and opening the model tells what is wrong.
    pub fn find(dir: &Path, mode: IoMode, cache: Option<&Path>) -> Self {
        let Some((path, len_bytes)) = largest_shard(dir) else { return Self::untried(mode) };
        Self::find_for(&path, len_bytes, mode, cache)
    }

    fn find_for(path: &Path, len_bytes: u64, mode: IoMode, cache: Option<&Path>) -> Self {
        let opened = match mode {
            IoMode::Auto => storage::first_that_works(storage::ORDER, |mode| RawFile::open(path, mode))
                .map(|(mode, _)| mode),
            mode => Ok(mode),
        };
        let Ok(works) = opened else { return Self::untried(mode) };
        if len_bytes < FILE_BYTES_MIN || !matches!(works, IoMode::Uring | IoMode::Direct) {
            return Self::untried(works);
        }
        let device = device::of(path);
        let cached = cache.zip(device.as_deref());
        if let Some((file, device)) = cached
            && let Some(tuning) = cache::load(file, device, mode.name())
            // What worked once may be forbidden now.
            && (tuning.mode == works || mode == IoMode::Auto && tuning.mode == IoMode::Direct)
        {
            tracing::debug!(device, ?tuning, "this disk is known");
            return tuning;
        }
        let begun = Instant::now();
        match probe(path, len_bytes, works, mode == IoMode::Auto) {
            Ok(tuning) => {
                tracing::debug!(?device, ?tuning, time = ?begun.elapsed(), "probed a disk");
                if let Some((file, device)) = cached {
                    cache::store(file, device, mode.name(), tuning);
                }
                tuning
            }
            Err(error) => {
                tracing::debug!(%error, "a disk was not probed");
                Self::untried(works)
            }
        }
    }

    /// What works on most machines.
    fn untried(mode: IoMode) -> Self {
        let ReaderConfig { depth, chunk_bytes, .. } = ReaderConfig::default();
        Self { mode, depth, chunk_bytes }
    }

    /// Whether it could have been found by a probe.
    fn is_sane(&self) -> bool {
        let Self { mode, depth, chunk_bytes } = *self;
        matches!(mode, IoMode::Uring | IoMode::Direct)
            && (1..=256).contains(&depth)
            && (DIRECT_ALIGN..=64 << 20).contains(&chunk_bytes)
            && chunk_bytes.is_multiple_of(DIRECT_ALIGN)
    }
}

fn largest_shard(dir: &Path) -> Option<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let shards = entries.map(|entry| entry.path()).filter(|path| is_shard(path));
    let sized = shards.filter_map(|path| fs::metadata(&path).ok().map(|metadata| (path, metadata.len())));
    sized.max_by_key(|(_, len_bytes)| *len_bytes)
}

/// Measures the grid in one mode, and then, if any will do, the best of it with threads.
fn probe(path: &Path, len_bytes: u64, mode: IoMode, any_mode: bool) -> Result<Tuning, IoError> {
    let buffer_bytes = GRID.iter().map(|(chunk_bytes, depth)| chunk_bytes * depth).max().unwrap_or(0);
    let mut buffer = Slot::alone(&Budget::new(u64::MAX), buffer_bytes)?;
    // The first read into a page costs more than those after it.
    buffer.chunks_mut(DIRECT_ALIGN).for_each(|page| page[0] = 1);
    let mut offsets = Offsets::new(len_bytes);
    let begun = Instant::now();
    let mut rate = |file: &RawFile, (read_bytes, depth)| {
        let reads = RawReads { read_bytes, depth, time: TIME, bytes: BYTES };
        file.sample(reads, &mut offsets, &mut buffer).map(|sample| sample.bytes_per_s())
    };
    let file = RawFile::open(path, mode)?;
    let mut rates = [0.0_f64; GRID.len()];
    for _ in 0..ROUNDS {
        for (best, &cell) in rates.iter_mut().zip(&GRID) {
            if begun.elapsed() < TIME_MAX {
                *best = best.max(rate(&file, cell)?);
            }
        }
    }
    let best = best_of(&rates);
    let (chunk_bytes, depth) = GRID[best];
    let mut tuning = Tuning { mode, depth, chunk_bytes };
    if any_mode && mode == IoMode::Uring {
        let threads = RawFile::open(path, IoMode::Direct)?;
        let mut threads_rate = 0.0_f64;
        for _ in 0..ROUNDS {
            threads_rate = threads_rate.max(rate(&threads, GRID[best])?);
        }
        // A ring takes half the processor time: threads must be faster by more than noise.
        if rates[best] < AS_FAST * threads_rate {
            tuning.mode = IoMode::Direct;
        }
    }
    Ok(tuning)
}

/// The first that is as fast as the fastest.
fn best_of(rates: &[f64]) -> usize {
    let fastest = rates.iter().copied().fold(0.0, f64::max);
    rates.iter().position(|&rate| rate >= AS_FAST * fastest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_under_way_wins_among_those_as_fast() {
        assert_eq!(best_of(&[1.0, 1.95, 2.0, 1.99]), 1);
        assert_eq!(best_of(&[1.0, 1.5, 2.0, 1.99]), 2);
        assert_eq!(best_of(&[0.0, 0.0]), 0);
        assert!(GRID.is_sorted_by_key(|(chunk_bytes, depth)| chunk_bytes * depth));
    }

    #[test]
    fn every_cell_of_the_grid_can_be_cached() {
        for (chunk_bytes, depth) in GRID {
            assert!(Tuning { mode: IoMode::Uring, depth, chunk_bytes }.is_sane());
        }
    }
}
