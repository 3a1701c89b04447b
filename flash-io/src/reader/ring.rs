//! Reading through io_uring, where one thread keeps the device's queue full.
//!
//! The counterpart of the threads of [`worker`](super::worker). The thread never sleeps for a single chunk: a chunk
//! that is held by the pacer, or pauses before a retry, has a due time, which limits the ring's next wait.

mod event_loop;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::event_loop::{Ring, RingChunk};
use super::completion::HOOK;
use super::config::CHUNKS_IN_FLIGHT;
use super::pace::Pace;
use super::queue::{CloseOnDrop, Lane, Queue};
use super::transfer::Retry;
use super::uring::{Uring, Wake};
use super::worker::Chunk;
use crate::error::IoError;
use crate::storage::ReadAt;

/// Reads in flight for each unit of depth, if they are shorter than a chunk. Of an expert in nine tensors, two thirds
/// of the reads are for a ninth of its bytes.
const READS_IN_FLIGHT: usize = 4;

/// Handle to the ring's thread.
#[derive(Debug)]
pub(super) struct RingQueue {
    chunks: Arc<Queue<RingChunk>>,
    wake: Arc<Wake>,
}

impl RingQueue {
    /// Starts the thread, for a device that `depth` concurrent reads of `chunk_bytes` saturate.
    ///
    /// All `storages` have a ring file; its index is that of the storage.
    pub(super) fn start(
        storages: Vec<Arc<dyn ReadAt>>,
        depth: usize,
        chunk_bytes: usize,
        retry: Arc<Retry>,
        pacer: Option<Arc<dyn Pace>>,
        read_timeout: Duration,
    ) -> Result<(Self, JoinHandle<()>), IoError> {
        let n_files = storages.len();
        let failed = |error| IoError::Ring { depth, n_files, error };
        let wake = Arc::new(Wake::new().map_err(failed)?);
        let chunks = Arc::new(Queue::new());
        let thread_chunks = Arc::clone(&chunks);
        let (started, starting) = crossbeam_channel::bounded(1);
        let thread_wake = Arc::clone(&wake);
        let body = move || {
            let chunks = CloseOnDrop(&*thread_chunks);
            // Created here, because only the thread that creates a ring may use it.
            let files: Vec<_> = storages.iter().filter_map(|storage| storage.ring_file()).collect();
            let created = Uring::new(depth.saturating_mul(READS_IN_FLIGHT), &files, Some(thread_wake));
            let uring = match created {
                Ok(uring) => uring,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            let in_flight_bytes_max = depth.saturating_mul(CHUNKS_IN_FLIGHT).saturating_mul(chunk_bytes);
            let ring =
                Ring::new(uring, in_flight_bytes_max, chunks.0, &retry, pacer.as_deref(), read_timeout, HOOK);
            if let Err(error) = ring.run() {
                tracing::error!(%error, "the io_uring failed: remaining reads end as closed");
            }
        };
        let thread = thread::Builder::new()
            .name(String::from("flash-ring"))
            .spawn(body)
            .map_err(|error| IoError::Spawn { thread_idx: 0, error })?;
        match starting.recv() {
            Ok(Ok(())) => Ok((Self { chunks, wake }, thread)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Queues a chunk. After the last one, call [`wake`](Self::wake).
    pub(super) fn push(&self, lane: Lane, chunk: Chunk, file: u32) {
        self.chunks.push(lane, RingChunk { chunk, file });
    }

    /// Promotes the speculative chunks that match `is_match`.
    pub(super) fn promote(&self, is_match: impl Fn(&Chunk) -> bool) {
        self.chunks.promote(|ring_chunk| is_match(&ring_chunk.chunk));
    }

    /// Drops the speculative chunks that match `is_match`.
    pub(super) fn discard(&self, is_match: impl Fn(&Chunk) -> bool) {
        self.chunks.discard(|ring_chunk| is_match(&ring_chunk.chunk));
    }

    pub(super) fn wake(&self) {
        self.wake.wake();
    }
}
