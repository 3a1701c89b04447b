//! How fast a file is read, by itself: no reader, no bundles.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::budget::Budget;
use crate::error::IoError;
use crate::pool::Slot;
use crate::storage::{DIRECT_ALIGN, IoMode, ReadAt, open};

/// A file is read in this many places in turn, as far as it is long enough, so that reads that follow each other in time
/// do not in the file: the system could join those.
const STRIPES_MAX: u64 = 64;
const STRIPE_BYTES_MIN: u64 = 32 << 20;

/// Which part of a file comes next: all of it once, before any of it comes again.
#[derive(Debug, Clone)]
pub struct Offsets {
    stripes: Vec<(u64, u64)>,
    len_bytes: u64,
    turn: usize,
    repeats: bool,
}

impl Offsets {
    /// Nothing read yet of a file of that length.
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

    /// Where to read `read_bytes` next; `None` if the file is shorter than that.
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

    /// Whether some bytes were read more than once: a cache anywhere may have had them.
    pub fn repeats(&self) -> bool {
        self.repeats
    }
}

/// What was read, and what it took.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Bytes that came.
    pub bytes: u64,
    /// From the first read to the end of the last.
    pub time: Duration,
    /// Processor time of the whole process meanwhile.
    pub cpu: Duration,
}

impl Sample {
    /// Bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Processor time as a part of one core's.
    pub fn core_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Measures time and processor time from now on.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    begun: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts it.
    pub fn start() -> Self {
        Self { cpu: process_time(), begun: Instant::now() }
    }

    /// How long it has been running.
    pub fn time(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What was done since it was started.
    pub fn sample(&self, bytes: u64) -> Sample {
        Sample { bytes, time: self.time(), cpu: process_time().saturating_sub(self.cpu) }
    }
}

fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// One file, to be read in one mode.
#[derive(Debug)]
pub struct RawFile {
    storage: Arc<dyn ReadAt>,
    path: Arc<Path>,
}

/// How a file is read for a [`Sample`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawReads {
    /// Bytes of one read, a multiple of [`DIRECT_ALIGN`].
    pub read_bytes: usize,
    /// Reads at once.
    pub depth: usize,
    /// No read begins after this time.
    pub time: Duration,
    /// No read begins after so many bytes were asked for.
    pub bytes: u64,
}

impl RawReads {
    /// Bytes of the buffer it takes.
    pub fn buffer_bytes(&self) -> usize {
        self.read_bytes * self.depth
    }
}

impl RawFile {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(path: &Path, mode: IoMode) -> Result<Self, IoError> {
        Ok(Self { storage: open(path, mode)?, path: path.into() })
    }

    /// Takes the file out of the page cache, which reads that go through it would otherwise measure.
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

    /// Reads what `offsets` says into the buffer, without looking at it.
    ///
    /// # Errors
    /// [`IoError::ReadFailed`] for the first read that fails or is short; none is repeated. [`IoError::Ring`] and
    /// [`IoError::Spawn`] as for a [`Reader`](crate::Reader). The buffer may be gone then.
    ///
    /// # Panics
    /// If the buffer is shorter than [`RawReads::buffer_bytes`], or there are no reads or bytes to be read.
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
        let sample = watch.sample(plan.into_inner().asked_bytes);
        failure.into_inner().map_or(Ok(sample), Err)
    }
}

/// Where to read until time or bytes are over.
#[derive(Debug)]
struct Plan<'a> {
    reads: RawReads,
    offsets: &'a mut Offsets,
    asked_bytes: u64,
}

impl<'a> Plan<'a> {
    fn new(reads: RawReads, offsets: &'a mut Offsets) -> Self {
        Self { reads, offsets, asked_bytes: 0 }
    }

    fn next(&mut self, watch: &Stopwatch) -> Option<u64> {
        if self.asked_bytes >= self.reads.bytes || watch.time() >= self.reads.time {
            return None;
        }
        let read_bytes = self.reads.read_bytes as u64;
        let offset = self.offsets.next(read_bytes)?;
        self.asked_bytes += read_bytes;
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
    use crate::reader::fill::{Origin, split};
    use crate::reader::uring::{Landed, Uring};

    /// As in threads: the buffer, as pieces that come back for the next read.
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
        let slot = std::mem::replace(buffer, Slot::alone(&Budget::new(u64::MAX), 0)?);
        let (fill, pieces) = split(slot, parts);

        let mut plan = Plan::new(reads, offsets);
        // Before the clock: a reader makes its ring once.
        let mut uring = Uring::new(depth, &[file], None).map_err(failed)?;
        let watch = Stopwatch::start();
        for piece in pieces {
            match plan.next(&watch) {
                Some(offset) => uring.read(0, offset, piece, 0, offset).map_err(failed)?,
                None => piece.end(Ok(())),
            }
        }
        while uring.n_flights() > 0 {
            uring.wait(None).map_err(failed)?;
            while let Some(Landed { piece, load: offset, outcome }) = uring.land().map_err(failed)? {
                match (checked(path, offset, read_bytes, outcome), plan.next(&watch)) {
                    (Ok(()), Some(offset)) => uring.read(0, offset, piece, 0, offset).map_err(failed)?,
                    (outcome, _) => piece.end(outcome),
                }
            }
        }
        let sample = watch.sample(plan.asked_bytes);
        *buffer = fill.wait()?;
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_offset_comes_again_before_all_have_come() {
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
    fn read_longer_than_the_file_has_no_place() {
        assert_eq!(Offsets::new(8191).next(8192), None);
        assert_eq!(Offsets::new(8192).next(8192), Some(0));
    }
}
