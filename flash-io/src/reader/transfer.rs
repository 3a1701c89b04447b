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
    /// Whether what was read stays in the page cache, if it went through that.
    pub(super) keep_cached: bool,
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
    /// Read calls made.
    attempts: u32,
    /// Those of them since bytes last came.
    fruitless: u32,
    /// The pause behind the next one that brings nothing.
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
        Self { wanted_bytes, align, got_bytes: 0, attempts: 0, fruitless: 0, backoff: retry.backoff }
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
        let (progress, interrupted, error) = match outcome {
            Ok(n) => {
                add(&counters.bytes, n as u64);
                let end = self.from() + n;
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
            // A storage may return as little as it likes at a time. Each of these brings a byte, so they are bounded, too.
            (self.fruitless, self.backoff) = (0, retry.backoff);
        } else {
            self.fruitless += 1;
        }
        let hopeless = error.as_ref().is_some_and(|error| !is_transient(error));
        if hopeless || self.fruitless > retry.max_retries {
            return Step::GivenUp(self.failed(origin, error));
        }
        add(&counters.retries, 1);
        let got_bytes = self.got_bytes;
        tracing::debug!(path = %origin.path.display(), offset = origin.offset, got_bytes, ?error, "read again");
        let mut pause = Duration::ZERO;
        if !progress && !interrupted {
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
    /// only room for alignment. Ends early, and is not counted, if it fails when `is_wanted` says no any more.
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

    /// Has the page cache let go of a chunk that was read from its origin.
    pub(super) fn drop_cached(&self, storage: &dyn ReadAt, origin: &Origin, len_bytes: usize) {
        if !self.keep_cached && storage.drop_cached(origin.offset, len_bytes) {
            add(&self.counters.cached_bytes, len_bytes as u64);
        }
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
        is_wanted: impl Fn() -> bool,
    ) -> Option<Result<(), IoError>> {
        if wanted_bytes == 0 {
            return Some(Ok(()));
        }
        let mut transfer = Transfer::new(self, wanted_bytes, storage.alignment());
        loop {
            let from = transfer.from();
            let started = Instant::now();
            let outcome = storage.read_at(origin.offset + from as u64, &mut buf[from..]);
            add_time(&self.counters.busy_ns, started.elapsed());
            match transfer.completed(self, origin, outcome) {
                Step::Done => return Some(Ok(())),
                Step::GivenUp(error) => return Some(Err(error)),
                Step::Again { pause } => self.gate.sleep(pause),
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

/// Errors after which the same read may succeed a moment later.
///
/// Others stay: the file or its device is gone (`ENXIO`, `ENODEV`, `ESTALE`; `ENOTCONN` of a FUSE whose process ended), its
/// bytes are damaged (`ENODATA` of a bad sector, `EBADMSG` and `EUCLEAN` of a file system), or the call is wrong (`EINVAL`,
/// `EBADF`, `EACCES`, …).
const TRANSIENT: [Errno; 19] = [
    // A signal came, or the system was too busy.
    Errno::INTR,
    Errno::AGAIN,
    Errno::BUSY,
    // An io_uring that could not start a thread for the read.
    Errno::CANCELED,
    // The system had no memory for the request at that moment.
    Errno::NOMEM,
    Errno::NOBUFS,
    // The device or the way to it failed once: a bad cable, a path that is switched, a transfer with a wrong checksum.
    Errno::IO,
    Errno::NOLINK,
    Errno::ILSEQ,
    // The device or a server took too long.
    Errno::TIMEDOUT,
    Errno::TIME,
    // A network file system lost its connection, and makes a new one.
    Errno::CONNRESET,
    Errno::CONNABORTED,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    Errno::NETRESET,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::PIPE,
];

/// Whether the same read may succeed later.
fn is_transient(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(errno) => TRANSIENT.contains(&errno),
        // From storage of another crate, which has no numbers.
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
        let Step::Again { pause } = step else { panic!("{step:?}") };
        *pause
    }

    #[test]
    fn reads_that_progress_are_never_given_up_and_never_pause() {
        let retry = retry(1);
        let mut transfer = Transfer::new(&retry, 1000, 1);
        for _ in 0..999 {
            assert!(pause_of(&transfer.completed(&retry, &origin(), Ok(1))).is_zero());
        }
        assert!(matches!(transfer.completed(&retry, &origin(), Ok(1)), Step::Done));
    }

    #[test]
    fn progress_gives_all_retries_and_the_first_pause_back() {
        let retry = retry(2);
        let mut transfer = Transfer::new(&retry, 100, 1);
        for _ in 0..5 {
            for pause_ms in [1, 2] {
                let step = transfer.completed(&retry, &origin(), Err(Errno::IO.into()));
                assert_eq!(pause_of(&step), Duration::from_millis(pause_ms));
            }
            assert!(pause_of(&transfer.completed(&retry, &origin(), Ok(10))).is_zero());
        }
        for _ in 0..2 {
            pause_of(&transfer.completed(&retry, &origin(), Ok(0)));
        }
        let given_up = transfer.completed(&retry, &origin(), Ok(0));
        let Step::GivenUp(IoError::ReadFailed { got_bytes, attempts, .. }) = given_up else {
            panic!("{given_up:?}")
        };
        assert_eq!((got_bytes, attempts), (50, 18));
    }

    #[test]
    fn aligned_reads_that_end_before_the_next_block_again_and_again_are_given_up() {
        let retry = retry(3);
        let mut transfer = Transfer::new(&retry, 9000, 4096);
        for _ in 0..4 {
            // The first brings bytes, those behind it only the same ones again.
            assert!(matches!(transfer.completed(&retry, &origin(), Ok(100)), Step::Again { .. }));
        }
        assert!(matches!(transfer.completed(&retry, &origin(), Ok(100)), Step::GivenUp(_)));
    }

    #[test]
    fn what_may_pass_is_read_again_and_what_stays_is_not() {
        let hopeless = [
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
        for (errnos, is_passing) in [(&TRANSIENT[..], true), (&hopeless[..], false)] {
            for errno in errnos {
                let retry = retry(1);
                let step = Transfer::new(&retry, 1, 1).completed(&retry, &origin(), Err((*errno).into()));
                assert_eq!(matches!(step, Step::Again { .. }), is_passing, "{errno:?}");
            }
        }
        let of_another_crate = io::Error::new(io::ErrorKind::OutOfMemory, "no buffer");
        assert!(is_transient(&of_another_crate));
        assert!(!is_transient(&io::Error::other("broken")));
    }
}
