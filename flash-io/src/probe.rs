//! Probe of a device for the fastest read parameters, with a cache file.

mod cache;
mod device;
mod tuning;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::catalog::is_shard;
use crate::error::IoError;
use crate::measure::{Offsets, RawFile, RawReads};
use crate::mode::IoMode;
use crate::pool::Slot;
use crate::storage::{self, DIRECT_ALIGN};

pub use tuning::Tuning;

/// Candidates, as bytes of a read and reads in flight, by ascending bytes in flight: among equally fast ones the first
/// wins, because it leaves the device the most freedom to serve other programs. The product is bounded, because the
/// probe's buffer counts against the caller's memory.
const GRID: [(usize, usize); 7] =
    [(1 << 20, 2), (512 << 10, 8), (1 << 20, 4), (2 << 20, 2), (512 << 10, 16), (1 << 20, 8), (2 << 20, 4)];
/// Time limit of one measurement.
const TIME: Duration = Duration::from_millis(12);
/// Byte limit of one measurement: several rounds of the deepest queue of the grid.
const BYTES: u64 = 16 << 20;
/// Measurements of each candidate; the fastest counts, because disturbances only slow a disk down.
const ROUNDS: usize = 2;
/// Approximate time limit of the whole probe, reached only on disks so slow that the parameters hardly matter.
const TIME_MAX: Duration = Duration::from_millis(400);
/// Fraction of the highest rate that counts as equally fast: the noise of such short measurements.
const EQUAL_RATE: f64 = 0.93;
/// Minimum length of a probed file, in bytes: a shorter one is not worth it, and would be read repeatedly.
const FILE_BYTES_MIN: u64 = 64 << 20;

impl Tuning {
    /// Finds the fastest read parameters for the model in `dir`: all of them for [`IoMode::Auto`], depth and chunk size
    /// for a direct mode. Takes about 0.1 s and 8 MiB of memory, and reads from the largest shard. The result is stored
    /// in the file `cache`, if given, for all models on the same device.
    ///
    /// Never fails: if nothing can be measured (no model, a small one, an I/O error), returns defaults that work on
    /// most machines, and opening the model reports the error.
    pub fn find(dir: &Path, mode: IoMode, cache: Option<&Path>) -> Self {
        let Some((path, len_bytes)) = largest_shard(dir) else { return Self::default_for(mode) };
        Self::find_for(&path, len_bytes, mode, cache)
    }

    fn find_for(path: &Path, len_bytes: u64, mode: IoMode, cache: Option<&Path>) -> Self {
        let opened = match mode {
            IoMode::Auto => storage::first_that_works(storage::ORDER, |mode| RawFile::open(path, mode))
                .map(|(mode, _)| mode),
            mode => Ok(mode),
        };
        let Ok(usable) = opened else { return Self::default_for(mode) };
        if len_bytes < FILE_BYTES_MIN || !matches!(usable, IoMode::Uring | IoMode::Direct) {
            return Self::default_for(usable);
        }
        let device = device::device_of(path);
        let cached = cache.zip(device.as_deref());
        if let Some((file, device)) = cached
            && let Some(tuning) = cache::load(file, device, mode.name())
            // The cached mode may no longer be usable.
            && (tuning.mode == usable || mode == IoMode::Auto && tuning.mode == IoMode::Direct)
        {
            tracing::debug!(device, ?tuning, "found a cached tuning");
            return tuning;
        }
        let begun = Instant::now();
        match probe(path, len_bytes, usable, mode == IoMode::Auto) {
            Ok(tuning) => {
                tracing::debug!(?device, ?tuning, time = ?begun.elapsed(), "probed a disk");
                if let Some((file, device)) = cached {
                    cache::store(file, device, mode.name(), tuning);
                }
                tuning
            }
            Err(error) => {
                tracing::debug!(%error, "a disk was not probed");
                Self::default_for(usable)
            }
        }
    }
}

fn largest_shard(dir: &Path) -> Option<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let shards = entries.map(|entry| entry.path()).filter(|path| is_shard(path));
    let sized = shards.filter_map(|path| fs::metadata(&path).ok().map(|metadata| (path, metadata.len())));
    sized.max_by_key(|(_, len_bytes)| *len_bytes)
}

/// Measures the grid in one mode, and, if `any_mode` is allowed, compares the winner with direct reads by threads.
fn probe(path: &Path, len_bytes: u64, mode: IoMode, any_mode: bool) -> Result<Tuning, IoError> {
    let buffer_bytes = GRID.iter().map(|(chunk_bytes, depth)| chunk_bytes * depth).max().unwrap_or(0);
    let mut buffer = Slot::unpooled(&Budget::new(u64::MAX), buffer_bytes)?;
    // Prefaulted, because the first write to a page costs more than later ones.
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
        // io_uring takes half the CPU time, so threads must be faster by more than the noise.
        if rates[best] < EQUAL_RATE * threads_rate {
            tuning.mode = IoMode::Direct;
        }
    }
    Ok(tuning)
}

/// Returns the index of the first rate that equals the highest within the noise.
fn best_of(rates: &[f64]) -> usize {
    let fastest = rates.iter().copied().fold(0.0, f64::max);
    rates.iter().position(|&rate| rate >= EQUAL_RATE * fastest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewest_bytes_in_flight_win_among_equal_rates() {
        assert_eq!(best_of(&[1.0, 1.95, 2.0, 1.99]), 1);
        assert_eq!(best_of(&[1.0, 1.5, 2.0, 1.99]), 2);
        assert_eq!(best_of(&[0.0, 0.0]), 0);
        assert!(GRID.is_sorted_by_key(|(chunk_bytes, depth)| chunk_bytes * depth));
    }

    #[test]
    fn every_cell_of_the_grid_can_be_cached() {
        for (chunk_bytes, depth) in GRID {
            assert!(Tuning { mode: IoMode::Uring, depth, chunk_bytes }.is_valid());
        }
    }
}
