//! One read that is tried again until its bytes are there or it is given up, whoever makes it.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::fill::Origin;
use super::gate::Gate;
use super::stats::{Counters, add, add_time};
use crate::error::IoError;
use crate::storage::ReadAt;

/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How reads are repeated, and who counts them.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) max_retries: u32,
    pub(super) backoff: Duration,
    pub(super) counters: Counters,
    pub(super) gate: Gate,
}

/// What has come of a read so far. It makes no read call: it says where the next one begins, and is told how it went.
#[derive(Debug)]
pub(super) struct Transfer {
    wanted_bytes: usize,
    /// What every offset is a multiple of.
    align: usize,
    got_bytes: usize,
    attempts: u32,
    backoff: Duration,
}

/// What to do after a read call.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: all wanted bytes are there.
    Done,
    /// Another one, after this pause.
    Again { pause: Duration },
    /// Nothing: no other would help, or there were enough.
    GivenUp(IoError),
}

impl Transfer {
    /// Nothing read yet of `wanted_bytes`.
    pub(super) fn new(retry: &Retry, wanted_bytes: usize, align: usize) -> Self {
        Self { wanted_bytes, align, got_bytes: 0, attempts: 0, backoff: retry.backoff }
    }

    /// Where in its buffer the next read call begins. A short one may have ended anywhere: it goes on where the storage
    /// can.
    pub(super) fn from(&self) -> usize {
        self.got_bytes - self.got_bytes % self.align
    }

    /// Takes in what a read call that began at [`from`](Self::from) returned.
    pub(super) fn completed(&mut self, retry: &Retry, origin: &Origin, outcome: io::Result<usize>) -> Step {
        let counters = &retry.counters;
        self.attempts += 1;
        let (progress, error) = match outcome {
            Ok(n) => {
                add(&counters.bytes, n as u64);
                let end = self.from() + n;
                let progress = end > self.got_bytes;
                self.got_bytes = self.got_bytes.max(end);
                if self.got_bytes >= self.wanted_bytes {
                    return Step::Done;
                }
                add(&counters.short_reads, 1);
                (progress, None)
            }
            Err(error) => {
                let interrupted = error.kind() == io::ErrorKind::Interrupted;
                add(if interrupted { &counters.interrupted } else { &counters.io_errors }, 1);
                (interrupted, Some(error))
            }
        };
        let hopeless = error.as_ref().is_some_and(|error| !is_transient(error));
        if hopeless || self.attempts > retry.max_retries {
            return Step::GivenUp(self.failed(origin, error));
        }
        add(&counters.retries, 1);
        let got_bytes = self.got_bytes;
        tracing::debug!(path = %origin.path.display(), offset = origin.offset, got_bytes, ?error, "read again");
        let mut pause = Duration::ZERO;
        if !progress {
            pause = self.backoff;
            self.backoff = self.backoff.saturating_mul(2).min(BACKOFF_MAX);
        }
        Step::Again { pause }
    }

    /// The error of giving up now.
    pub(super) fn failed(&self, origin: &Origin, error: Option<io::Error>) -> IoError {
        IoError::ReadFailed {
            path: origin.path.to_path_buf(),
            offset: origin.offset,
            wanted_bytes: self.wanted_bytes as u64,
            got_bytes: self.got_bytes as u64,
            attempts: self.attempts,
            error,
        }
    }
}

impl Retry {
    /// Reads at `origin` in the calling thread until the first `wanted_bytes` of `buf` are there; the rest of `buf` is
    /// only room for alignment.
    pub(super) fn read(
        &self,
        storage: &dyn ReadAt,
        origin: &Origin,
        buf: &mut [u8],
        wanted_bytes: usize,
    ) -> Result<(), IoError> {
        let outcome = self.attempt(storage, origin, buf, wanted_bytes);
        self.count(&outcome);
        outcome
    }

    /// Counts a read that came to its end.
    pub(super) fn count(&self, outcome: &Result<(), IoError>) {
        add(if outcome.is_ok() { &self.counters.chunks } else { &self.counters.failures }, 1);
    }

    fn attempt(
        &self,
        storage: &dyn ReadAt,
        origin: &Origin,
        buf: &mut [u8],
        wanted_bytes: usize,
    ) -> Result<(), IoError> {
        if wanted_bytes == 0 {
            return Ok(());
        }
        let mut transfer = Transfer::new(self, wanted_bytes, storage.alignment());
        loop {
            let from = transfer.from();
            let started = Instant::now();
            let outcome = storage.read_at(origin.offset + from as u64, &mut buf[from..]);
            add_time(&self.counters.busy_ns, started.elapsed());
            match transfer.completed(self, origin, outcome) {
                Step::Done => return Ok(()),
                Step::GivenUp(error) => return Err(error),
                Step::Again { pause } => self.gate.sleep(pause),
            }
            if self.gate.is_closed() {
                return Err(origin.closed());
            }
        }
    }
}

/// Whether the same read may succeed later.
fn is_transient(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        || error.raw_os_error() == Some(Errno::IO.raw_os_error())
}
