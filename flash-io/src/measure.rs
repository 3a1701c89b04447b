//! Measurement of raw read rates of a file, without reader and bundles.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::error::IoError;
use crate::mode::IoMode;
use crate::pool::Slot;
use crate::storage::{DIRECT_ALIGN, ReadAt, open};

/// Maximum number of stripes of a file, which are read in turn, because the system could merge reads of adjacent
/// ranges.
const STRIPES_MAX: u64 = 64;
/// Minimum bytes of a stripe.
const STRIPE_BYTES_MIN: u64 = 32 << 20;

/// Sequence of read offsets in a file that covers all of it before any offset repeats.
#[derive(Debug, Clone)]
pub struct Offsets {
    stripes: Vec<(u64, u64)>,
    len_bytes: u64,
    turn: usize,
    repeats: bool,
}

impl Offsets {
    /// Creates a sequence for a file of `len_bytes`.
    pub fn new(len_bytes: u64) -> Self {
        let mut offsets = Self { stripes: Vec::new(), len_bytes, turn: 0, repeats: false };
        offsets.begin();
        offsets
    }

    fn begin(&mut self) {
        let align = DIRECT_ALIGN as u64;
        let n_stripes = (self.len_bytes / STRIPE_BYTES_MIN).clamp(1, STRIPES_MAX);
        let stripe_bytes = self.len_bytes / n_stripes / align * align;
        self.stripes = (0..n_stripes).map(|i| (i * stripe_bytes, (i + 1) * stripe_bytes)).collect();
        self.turn = 0;
    }

    /// Returns the next offset of a read of `read_bytes`; `None` if the file is shorter than that.
    fn next(&mut self, read_bytes: u64) -> Option<u64> {
        for round in 0..2 {
            for _ in 0..self.stripes.len() {
                let stripe = self.turn % self.stripes.len();
                self.turn += 1;
                let (start, end) = &mut self.stripes[stripe];
                if *end - *start >= read_bytes {
                    let offset = *start;
                    *start += read_bytes;
                    return Some(offset);
                }
            }
            if round == 0 {
                self.repeats = true;
                self.begin();
            }
        }
        None
    }

    /// Returns whether some offset was repeated, so that a cache may have served its bytes.
    pub fn repeats(&self) -> bool {
        self.repeats
    }
}

/// Result of a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Bytes read.
    pub bytes: u64,
    /// Time from the start of the first read to the end of the last.
    pub time: Duration,
    /// CPU time of the whole process in that time.
    pub cpu: Duration,
}

impl Sample {
    /// Returns the rate in bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Returns the CPU time as a fraction of one core.
    pub fn core_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Stopwatch of wall-clock time and CPU time.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    begun: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts a stopwatch.
    pub fn start() -> Self {
        Self { cpu: process_time(), begun: Instant::now() }
    }

    /// Returns the time since the start.
    pub fn time(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns a sample of `bytes` read since the start.
    pub fn sample(&self, bytes: u64) -> Sample {
        Sample { bytes, time: self.time(), cpu: process_time().saturating_sub(self.cpu) }
    }
}

fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// File opened in one mode for measurements.
#[derive(Debug)]
pub struct RawFile {
    storage: Arc<dyn ReadAt>,
    path: Arc<Path>,
}

/// Parameters of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawReads {
    /// Bytes of one read, a multiple of [`DIRECT_ALIGN`].
    pub read_bytes: usize,
    /// Reads in flight.
    pub depth: usize,
    /// Time after which no read begins.
    pub time: Duration,
    /// Bytes after which no read begins.
    pub bytes: u64,
}

impl RawReads {
    /// Returns the bytes of the buffer that the reads need.
    pub fn buffer_bytes(&self) -> usize {
        self.read_bytes * self.depth
    }
}

impl RawFile {
    /// Opens a file.
    ///
    /// # Errors
    /// See [`open`].
    pub fn open(path: &Path, mode: IoMode) -> Result<Self, IoError> {
        Ok(Self { storage: open(path, mode)?, path: path.into() })
    }

    /// Evicts the file from the page cache, which buffered reads would measure otherwise.
    pub fn make_cold(&self) {
        #[cfg(target_os = "linux")]
        if self.storage.alignment() == 1 {
            use rustix::fs::{Advice, fadvise};
            let dropped = std::fs::File::open(&self.path)
                .and_then(|file| Ok(fadvise(file, 0, None, Advice::DontNeed)?));
            if let Err(error) = dropped {
                tracing::debug!(%error, "a file stays in the page cache");
            }
        }
    }

    /// Measures reads at `offsets` into the buffer, whose contents are ignored.
    ///
    /// # Errors
    /// [`IoError::ReadFailed`] for the first read that fails or is short, without retries. [`IoError::Ring`] and
    /// [`IoError::Spawn`] as for a [`Reader`](crate::Reader). The buffer may be empty then.
    ///
    /// # Panics
    /// If the buffer is shorter than [`RawReads::buffer_bytes`], or `depth` or `read_bytes` is 0.
    pub fn sample(
        &self,
        reads: RawReads,
        offsets: &mut Offsets,
        buffer: &mut Slot,
    ) -> Result<Sample, IoError> {
        assert!(reads.buffer_bytes() > 0 && reads.buffer_bytes() <= buffer.len(), "the reads fit the buffer");
        #[cfg(target_os = "linux")]
        if let Some(file) = self.storage.ring_file() {
            return ring::sample(file, &self.path, reads, offsets, buffer);
        }
        self.sample_in_threads(reads, offsets, buffer)
    }

    fn sample_in_threads(
        &self,
        reads: RawReads,
        offsets: &mut Offsets,
        buffer: &mut Slot,
    ) -> Result<Sample, IoError> {
        let plan = Mutex::new(Plan::new(reads, offsets));
        let failure = Mutex::new(None);
        let watch = Stopwatch::start();
        thread::scope(|scope| {
            for (thread_idx, part) in buffer.chunks_exact_mut(reads.read_bytes).take(reads.depth).enumerate()
            {
                let body = || {
                    while let Some(offset) = plan.lock().next(&watch) {
                        let outcome = self.storage.read_at(offset, part);
                        if let Err(error) = checked(&self.path, offset, part.len(), outcome) {
                            failure.lock().get_or_insert(error);
                            return;
                        }
                    }
                };
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, body) {
                    failure.lock().get_or_insert(IoError::Spawn { thread_idx, error });
                }
            }
        });
        let sample = watch.sample(plan.into_inner().requested_bytes);
        failure.into_inner().map_or(Ok(sample), Err)
    }
}

/// Offsets of the remaining reads, until the limits of time or bytes are reached.
#[derive(Debug)]
struct Plan<'a> {
    reads: RawReads,
    offsets: &'a mut Offsets,
    requested_bytes: u64,
}

impl<'a> Plan<'a> {
    fn new(reads: RawReads, offsets: &'a mut Offsets) -> Self {
        Self { reads, offsets, requested_bytes: 0 }
    }

    fn next(&mut self, watch: &Stopwatch) -> Option<u64> {
        if self.requested_bytes >= self.reads.bytes || watch.time() >= self.reads.time {
            return None;
        }
        let read_bytes = self.reads.read_bytes as u64;
        let offset = self.offsets.next(read_bytes)?;
        self.requested_bytes += read_bytes;
        Some(offset)
    }
}

fn checked(
    path: &Path,
    offset: u64,
    wanted_bytes: usize,
    outcome: std::io::Result<usize>,
) -> Result<(), IoError> {
    let failed = |got_bytes, error| {
        let wanted_bytes = wanted_bytes as u64;
        IoError::ReadFailed { path: path.to_owned(), offset, wanted_bytes, got_bytes, attempts: 1, error }
    };
    match outcome {
        Ok(n) if n == wanted_bytes => Ok(()),
        Ok(n) => Err(failed(n as u64, None)),
        Err(error) => Err(failed(0, Some(error))),
    }
}

#[cfg(target_os = "linux")]
mod ring {
    use std::os::fd::BorrowedFd;

    use super::*;
    use crate::budget::Budget;
    use crate::reader::fill::{Origin, split};
    use crate::reader::uring::{Completed, Uring};

    /// Measures reads through a ring, each into a piece of the buffer that is reused for the next read.
    pub(super) fn sample(
        file: BorrowedFd<'_>,
        path: &Arc<Path>,
        reads: RawReads,
        offsets: &mut Offsets,
        buffer: &mut Slot,
    ) -> Result<Sample, IoError> {
        let RawReads { read_bytes, depth, .. } = reads;
        let failed = |error| IoError::Ring { depth, n_files: 1, error };
        let origin = Origin { path: Arc::clone(path), offset: 0 };
        let parts = (0..depth).map(|i| (i * read_bytes..(i + 1) * read_bytes, origin.clone())).collect();
        let slot = std::mem::replace(buffer, Slot::unpooled(&Budget::new(u64::MAX), 0)?);
        let (fill, pieces) = split(slot, parts);

        let mut plan = Plan::new(reads, offsets);
        // Not timed, because a reader creates its ring once.
        let mut uring = Uring::new(depth, &[file], None).map_err(failed)?;
        let watch = Stopwatch::start();
        for piece in pieces {
            match plan.next(&watch) {
                Some(offset) => uring.read(0, offset, piece, 0, offset).map_err(failed)?,
                None => piece.end(Ok(())),
            }
        }
        while uring.n_in_flight() > 0 {
            uring.wait(None).map_err(failed)?;
            while let Some(Completed { piece, context: offset, outcome }) =
                uring.next_completed().map_err(failed)?
            {
                match (checked(path, offset, read_bytes, outcome), plan.next(&watch)) {
                    (Ok(()), Some(offset)) => uring.read(0, offset, piece, 0, offset).map_err(failed)?,
                    (outcome, _) => piece.end(outcome),
                }
            }
        }
        let sample = watch.sample(plan.requested_bytes);
        *buffer = fill.wait()?;
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_offset_repeats_before_all_are_read() {
        let len_bytes = 5 * STRIPE_BYTES_MIN + 12_345;
        let mut offsets = Offsets::new(len_bytes);
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let offset = offsets.next(1 << 20).unwrap();
            if offsets.repeats() {
                break;
            }
            assert!(offset + (1 << 20) <= len_bytes);
            assert!(seen.insert(offset));
        }
        assert!(seen.len() as u64 >= 5 * (STRIPE_BYTES_MIN >> 20));
    }

    #[test]
    fn read_longer_than_the_file_has_no_offset() {
        assert_eq!(Offsets::new(8191).next(8192), None);
        assert_eq!(Offsets::new(8192).next(8192), Some(0));
    }
}
