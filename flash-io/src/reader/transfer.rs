//! One read that is tried again until its bytes are there or it is given up.

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

impl Retry {
    /// Reads at `origin` until the first `wanted_bytes` of `buf` are there; the rest of `buf` is only room
    /// for alignment.
    pub(super) fn read(
        &self,
        storage: &dyn ReadAt,
        origin: &Origin,
        buf: &mut [u8],
        wanted_bytes: usize,
    ) -> Result<(), IoError> {
        let outcome = self.attempt(storage, origin, buf, wanted_bytes);
        add(if outcome.is_ok() { &self.counters.chunks } else { &self.counters.failures }, 1);
        outcome
    }

    fn attempt(
        &self,
        storage: &dyn ReadAt,
        origin: &Origin,
        buf: &mut [u8],
        wanted_bytes: usize,
    ) -> Result<(), IoError> {
        let counters = &self.counters;
        let (mut got_bytes, mut attempts, mut backoff) = (0, 0, self.backoff);
        while got_bytes < wanted_bytes {
            // A short read may have ended anywhere: go on where the storage can.
            let from = got_bytes - got_bytes % storage.alignment();
            let started = Instant::now();
            let outcome = storage.read_at(origin.offset + from as u64, &mut buf[from..]);
            add_time(&counters.busy_ns, started.elapsed());
            attempts += 1;

            let (progress, error) = match outcome {
                Ok(n) => {
                    add(&counters.bytes, n as u64);
                    let progress = from + n > got_bytes;
                    got_bytes = got_bytes.max(from + n);
                    if got_bytes >= wanted_bytes {
                        break;
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
            if hopeless || attempts > self.max_retries {
                return Err(IoError::ReadFailed {
                    path: origin.path.to_path_buf(),
                    offset: origin.offset,
                    wanted_bytes: wanted_bytes as u64,
                    got_bytes: got_bytes as u64,
                    attempts,
                    error,
                });
            }
            add(&counters.retries, 1);
            tracing::debug!(path = %origin.path.display(), offset = origin.offset, got_bytes, ?error, "read again");
            if !progress {
                self.gate.sleep(backoff);
                backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
            }
            if self.gate.is_closed() {
                return Err(origin.closed());
            }
        }
        Ok(())
    }
}

/// Whether the same read may succeed later.
fn is_transient(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        || error.raw_os_error() == Some(Errno::IO.raw_os_error())
}
