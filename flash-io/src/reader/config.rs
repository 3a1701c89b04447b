//! Configuration of a reader.

use std::sync::Arc;
use std::time::Duration;

use super::pace::Pace;

/// Full chunks that an io_uring has in flight for each unit of depth. One saturates an idle machine; beside a running
/// model, two reduce the time per token (docs/performance.md).
pub(crate) const CHUNKS_IN_FLIGHT: usize = 2;

/// Configuration of a [`Reader`](crate::Reader).
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Queue depth: the number of concurrent reads of `chunk_bytes` that saturate the device. A depth of 1 leaves half
    /// of an SSD unused.
    ///
    /// Without io_uring, each is made by a thread of its own. An io_uring keeps twice as many in flight, up to four
    /// times as many if they are short, because more are needed beside a running model.
    pub depth: usize,
    /// Bytes of one read call, rounded up to a multiple of [`DIRECT_ALIGN`](crate::DIRECT_ALIGN). A bundle too small
    /// for `depth` such reads is split into smaller ones.
    pub chunk_bytes: usize,
    /// Maximum number of consecutive retries of a read that failed or returned 0 bytes; 0 for none. A short read is
    /// continued for as long as each call returns some bytes.
    pub max_retries: u32,
    /// Pause before the first retry of a read that returned nothing. It doubles with each retry, up to a second, and is
    /// reset when bytes arrive.
    pub retry_backoff: Duration,
    /// Time after which a read is cancelled and retried like a failed one. If the cancellation takes as long again, the
    /// bundle fails, and its slot is released when the device is done with it.
    ///
    /// Only with io_uring: a thread whose read is stuck waits for it, and so does its bundle.
    pub read_timeout: Duration,
    /// Whether chunks of buffered reads stay in the page cache. By default they are evicted: a model that is streamed
    /// in a cycle finds nothing in the cache unless all of it fits.
    pub keep_cached: bool,
    /// Limits when chunks may be read; `None` for no limit.
    pub pacer: Option<Arc<dyn Pace>>,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            depth: 8,
            chunk_bytes: 1 << 20,
            max_retries: 4,
            retry_backoff: Duration::from_millis(2),
            read_timeout: Duration::from_secs(30),
            keep_cached: false,
            pacer: None,
        }
    }
}
