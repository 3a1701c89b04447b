//! Retries of a read, shared by threads and io_uring.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::fill::Origin;
use super::gate::Gate;
use super::stats::{Counters, add, add_time};
use crate::error::IoError;
use crate::storage::ReadAt;

/// Maximum pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Retry policy, counters and closing gate of a reader.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) max_retries: u32,
    pub(super) backoff: Duration,
    /// Whether chunks of buffered reads stay in the page cache.
    pub(super) keep_cached: bool,
    pub(super) counters: Counters,
    pub(super) gate: Gate,
}

/// Progress of a read across its calls.
///
/// Makes no calls itself: it returns the offset of the next one, and takes the result.
#[derive(Debug)]
pub(super) struct Transfer {
    wanted_bytes: usize,
    /// Alignment of the offset of each call.
    align: usize,
    got_bytes: usize,
    /// Number of read calls.
    attempts: u32,
    /// Number of read calls since the last one that returned new bytes.
    n_without_progress: u32,
    /// Pause after the next call that returns no new bytes.
    backoff: Duration,
}

/// Next step after a read call.
#[derive(Debug)]
pub(super) enum Step {
    /// All wanted bytes are read.
    Done,
    /// Another call is needed, after this pause.
    Retry { pause: Duration },
    /// The read failed: the error is permanent, or the retries are used up.
    Failed(IoError),
}

impl Transfer {
    /// Starts a read of `wanted_bytes`.
    pub(super) fn new(retry: &Retry, wanted_bytes: usize, align: usize) -> Self {
        Self { wanted_bytes, align, got_bytes: 0, attempts: 0, n_without_progress: 0, backoff: retry.backoff }
    }

    /// Returns the buffer offset of the next read call: the end of the bytes read, rounded down to the alignment.
    pub(super) fn resume_offset(&self) -> usize {
        self.got_bytes - self.got_bytes % self.align
    }

    /// Processes the result of a read call at [`resume_offset`](Self::resume_offset).
    pub(super) fn advance(&mut self, retry: &Retry, origin: &Origin, outcome: io::Result<usize>) -> Step {
        let counters = &retry.counters;
        self.attempts += 1;
        let (progress, interrupted, error) = match outcome {
            Ok(n) => {
                add(&counters.bytes, n as u64);
                let end = self.resume_offset() + n;
                let progress = end > self.got_bytes;
                self.got_bytes = self.got_bytes.max(end);
                if self.got_bytes >= self.wanted_bytes {
                    return Step::Done;
                }
                add(&counters.short_reads, 1);
                (progress, false, None)
            }
            Err(error) => {
                let interrupted = error.kind() == io::ErrorKind::Interrupted;
                add(if interrupted { &counters.interrupted } else { &counters.io_errors }, 1);
                (false, interrupted, Some(error))
            }
        };
        if progress {
            // A storage may return a single byte per call. Such calls are bounded too, by the length of the read.
            (self.n_without_progress, self.backoff) = (0, retry.backoff);
        } else {
            self.n_without_progress += 1;
        }
        let is_permanent = error.as_ref().is_some_and(|error| !is_transient(error));
        if is_permanent || self.n_without_progress > retry.max_retries {
            return Step::Failed(self.error(origin, error));
        }
        add(&counters.retries, 1);
        let got_bytes = self.got_bytes;
        tracing::debug!(path = %origin.path.display(), offset = origin.offset, got_bytes, ?error, "retrying a read");
        let mut pause = Duration::ZERO;
        if !progress && !interrupted {
            pause = self.backoff;
            self.backoff = self.backoff.saturating_mul(2).min(BACKOFF_MAX);
        }
        Step::Retry { pause }
    }

    /// Returns the error of failing now.
    pub(super) fn error(&self, origin: &Origin, error: Option<io::Error>) -> IoError {
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
    /// Reads at `origin` in the calling thread until the first `wanted_bytes` of `buf` are filled; the rest of `buf` is
    /// padding for alignment. Before a retry, returns early and uncounted unless `is_wanted`.
    pub(super) fn read(
        &self,
        storage: &dyn ReadAt,
        origin: &Origin,
        buf: &mut [u8],
        wanted_bytes: usize,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(), IoError> {
        let Some(outcome) = self.attempt(storage, origin, buf, wanted_bytes, is_wanted) else {
            return Ok(());
        };
        self.count(&outcome);
        outcome
    }

    /// Evicts a chunk that was read at `origin` from the page cache, unless it should stay.
    pub(super) fn drop_cached(&self, storage: &dyn ReadAt, origin: &Origin, len_bytes: usize) {
        if !self.keep_cached && storage.drop_cached(origin.offset, len_bytes) {
            add(&self.counters.cached_bytes, len_bytes as u64);
        }
    }

    /// Counts a finished read.
    pub(super) fn count(&self, outcome: &Result<(), IoError>) {
        add(if outcome.is_ok() { &self.counters.chunks } else { &self.counters.failures }, 1);
    }

    fn attempt(
        &self,
        storage: &dyn ReadAt,
        origin: &Origin,
        buf: &mut [u8],
        wanted_bytes: usize,
        is_wanted: impl Fn() -> bool,
    ) -> Option<Result<(), IoError>> {
        if wanted_bytes == 0 {
            return Some(Ok(()));
        }
        let mut transfer = Transfer::new(self, wanted_bytes, storage.alignment());
        loop {
            let from = transfer.resume_offset();
            let started = Instant::now();
            let outcome = storage.read_at(origin.offset + from as u64, &mut buf[from..]);
            add_time(&self.counters.busy_ns, started.elapsed());
            match transfer.advance(self, origin, outcome) {
                Step::Done => return Some(Ok(())),
                Step::Failed(error) => return Some(Err(error)),
                Step::Retry { pause } => self.gate.sleep(pause),
            }
            if self.gate.is_closed() {
                return Some(Err(origin.closed()));
            }
            if !is_wanted() {
                return None;
            }
        }
    }
}

/// Transient errors, after which the same read may succeed a moment later.
///
/// All others are permanent: the file or its device is gone (`ENXIO`, `ENODEV`, `ESTALE`; `ENOTCONN` of a FUSE whose
/// process ended), its bytes are damaged (`ENODATA` of a bad sector, `EBADMSG` and `EUCLEAN` of a file system), or the
/// call is invalid (`EINVAL`, `EBADF`, `EACCES`, …).
const TRANSIENT: [Errno; 19] = [
    // A signal arrived, or the system was busy.
    Errno::INTR,
    Errno::AGAIN,
    Errno::BUSY,
    // io_uring could not start a thread for the read.
    Errno::CANCELED,
    // The system had no memory for the request.
    Errno::NOMEM,
    Errno::NOBUFS,
    // The device or its link failed once: a bad cable, a path failover, a transfer with a wrong checksum.
    Errno::IO,
    Errno::NOLINK,
    Errno::ILSEQ,
    // The device or a server took too long.
    Errno::TIMEDOUT,
    Errno::TIME,
    // A network file system lost its connection, and reconnects.
    Errno::CONNRESET,
    Errno::CONNABORTED,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    Errno::NETRESET,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::PIPE,
];

/// Returns whether the same read may succeed later.
fn is_transient(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(errno) => TRANSIENT.contains(&errno),
        // An error without number, from storage of another crate.
        None => matches!(
            error.kind(),
            io::ErrorKind::Interrupted
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::OutOfMemory
                | io::ErrorKind::ResourceBusy
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::BrokenPipe
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(max_retries: u32) -> Retry {
        let backoff = Duration::from_millis(1);
        Retry {
            max_retries,
            backoff,
            keep_cached: false,
            counters: Counters::default(),
            gate: Gate::default(),
        }
    }

    fn origin() -> Origin {
        Origin { path: std::path::Path::new("shard").into(), offset: 0 }
    }

    fn pause_of(step: &Step) -> Duration {
        let Step::Retry { pause } = step else { panic!("{step:?}") };
        *pause
    }

    #[test]
    fn reads_that_progress_never_fail_and_never_pause() {
        let retry = retry(1);
        let mut transfer = Transfer::new(&retry, 1000, 1);
        for _ in 0..999 {
            assert!(pause_of(&transfer.advance(&retry, &origin(), Ok(1))).is_zero());
        }
        assert!(matches!(transfer.advance(&retry, &origin(), Ok(1)), Step::Done));
    }

    #[test]
    fn progress_resets_retries_and_pause() {
        let retry = retry(2);
        let mut transfer = Transfer::new(&retry, 100, 1);
        for _ in 0..5 {
            for pause_ms in [1, 2] {
                let step = transfer.advance(&retry, &origin(), Err(Errno::IO.into()));
                assert_eq!(pause_of(&step), Duration::from_millis(pause_ms));
            }
            assert!(pause_of(&transfer.advance(&retry, &origin(), Ok(10))).is_zero());
        }
        for _ in 0..2 {
            pause_of(&transfer.advance(&retry, &origin(), Ok(0)));
        }
        let failed = transfer.advance(&retry, &origin(), Ok(0));
        let Step::Failed(IoError::ReadFailed { got_bytes, attempts, .. }) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!((got_bytes, attempts), (50, 18));
    }

    #[test]
    fn aligned_reads_that_never_reach_the_next_block_fail() {
        let retry = retry(3);
        let mut transfer = Transfer::new(&retry, 9000, 4096);
        for _ in 0..4 {
            // The first call returns new bytes, later ones the same bytes again.
            assert!(matches!(transfer.advance(&retry, &origin(), Ok(100)), Step::Retry { .. }));
        }
        assert!(matches!(transfer.advance(&retry, &origin(), Ok(100)), Step::Failed(_)));
    }

    #[test]
    fn transient_errors_are_retried_and_permanent_ones_are_not() {
        let permanent = [
            Errno::ACCESS,
            Errno::PERM,
            Errno::INVAL,
            Errno::BADF,
            Errno::FAULT,
            Errno::NXIO,
            Errno::NODEV,
            Errno::NODATA,
            Errno::BADMSG,
            Errno::STALE,
            Errno::NOTCONN,
            Errno::ISDIR,
        ];
        for (errnos, is_retried) in [(&TRANSIENT[..], true), (&permanent[..], false)] {
            for errno in errnos {
                let retry = retry(1);
                let step = Transfer::new(&retry, 1, 1).advance(&retry, &origin(), Err((*errno).into()));
                assert_eq!(matches!(step, Step::Retry { .. }), is_retried, "{errno:?}");
            }
        }
        let without_number = io::Error::new(io::ErrorKind::OutOfMemory, "no buffer");
        assert!(is_transient(&without_number));
        assert!(!is_transient(&io::Error::other("broken")));
    }
}
