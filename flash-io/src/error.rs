//! The errors of this crate.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::header::HeaderFault;
use crate::lfs::LfsPointer;
use crate::storage::IoMode;

/// Why bytes could not be found, held or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// A file or directory could not be opened or examined.
    #[error("{path}: {error}")]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A model path is a file, not a directory.
    #[error("{path}: not a directory")]
    NotADirectory {
        /// The path that was given.
        path: PathBuf,
    },
    /// A directory holds no safetensors file.
    #[error("{path}: no *.safetensors file in this directory")]
    NoShards {
        /// The directory.
        path: PathBuf,
    },
    /// A file is a Git LFS pointer.
    #[error("{path}: {pointer}")]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// What it says of the file that it stands for.
        pointer: LfsPointer,
    },
    /// A shard's header was refused.
    #[error("{path}: {fault}")]
    Header {
        /// The shard.
        path: PathBuf,
        /// What is wrong with its header.
        #[source]
        fault: HeaderFault,
    },
    /// An index file is larger than any real one.
    #[error("{path}: index of {index_bytes} B, at most {max_bytes} B are accepted")]
    IndexTooLong {
        /// The index file.
        path: PathBuf,
        /// Its length.
        index_bytes: u64,
        /// The limit, [`MAX_INDEX_BYTES`](crate::MAX_INDEX_BYTES).
        max_bytes: u64,
    },
    /// An index file is not JSON of the expected form.
    #[error("{path}: not an index: {error}")]
    IndexSyntax {
        /// The index file.
        path: PathBuf,
        /// Where and why parsing stopped.
        #[source]
        error: serde_json::Error,
    },
    /// An index file has no `weight_map`.
    #[error("{path}: the index has no \"weight_map\"")]
    IndexWithoutWeightMap {
        /// The index file.
        path: PathBuf,
    },
    /// An index file names a tensor twice.
    #[error("{path}: the index names tensor {tensor:?} twice")]
    IndexDuplicate {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// An index file names a shard by something else than a plain file name.
    #[error("{path}: tensor {tensor:?} is in {shard:?}, which is not a plain file name")]
    IndexShardName {
        /// The index file.
        path: PathBuf,
        /// The tensor that is said to be there.
        tensor: String,
        /// The name that was refused.
        shard: String,
    },
    /// An index file names a shard that does not exist.
    #[error("{path}: names shard {shard}, which does not exist")]
    MissingShard {
        /// The index file.
        path: PathBuf,
        /// The shard that is not there.
        shard: PathBuf,
    },
    /// An index file names a tensor that its shard does not hold.
    #[error("{path}: names tensor {tensor:?}, which is not in {shard}")]
    MissingTensor {
        /// The index file.
        path: PathBuf,
        /// The shard that was searched.
        shard: PathBuf,
        /// The tensor that is not there.
        tensor: String,
    },
    /// Two shards of a model without an index hold the same tensor.
    #[error("{path}: tensor {tensor:?} is also in {other}")]
    DuplicateTensor {
        /// The shard where it was met for the second time.
        path: PathBuf,
        /// The shard where it was met first.
        other: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The file system of a file does not support direct reads.
    #[error("{path}: its file system does not support direct reads; {alternative} reads work everywhere")]
    DirectUnsupported {
        /// The file.
        path: PathBuf,
        /// A mode that works.
        alternative: IoMode,
    },
    /// The device of a file asks for coarser direct reads than are made.
    #[error(
        "{path}: direct reads must be aligned to {wanted_bytes} B, at most {max_bytes} B are supported; \
         {alternative} reads work everywhere"
    )]
    DirectAlignment {
        /// The file.
        path: PathBuf,
        /// The alignment that the kernel asks for.
        wanted_bytes: u64,
        /// The alignment of all direct reads, [`DIRECT_ALIGN`](crate::DIRECT_ALIGN).
        max_bytes: u64,
        /// A mode that works.
        alternative: IoMode,
    },
    /// The system has no io_uring for this process: it is too old, is not Linux, or forbids it.
    #[error("{path}: the system has no io_uring for this program ({error}); {alternative} reads need none")]
    UringUnsupported {
        /// The file that was to be read with it.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
        /// A mode that works.
        alternative: IoMode,
    },
    /// A name of an I/O mode is not known.
    #[error("unknown I/O mode {given:?}, expected one of auto, uring, direct, pread, mmap")]
    UnknownMode {
        /// What was given.
        given: String,
    },
    /// A reservation does not fit into its budget.
    #[error("{wanted_bytes} B do not fit the memory budget: {free_bytes} B of {total_bytes} B are free")]
    OverBudget {
        /// What was asked for.
        wanted_bytes: u64,
        /// What was free at that moment.
        free_bytes: u64,
        /// The whole budget.
        total_bytes: u64,
    },
    /// The system gave no memory although the budget had room.
    #[error("cannot map {wanted_bytes} B of memory: {error}")]
    Map {
        /// What was asked for.
        wanted_bytes: u64,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A read went on failing after all its retries, or failed in a way that no retry helps.
    #[error(
        "{path}: read at {offset} wanted {wanted_bytes} B, got {got_bytes} B after {attempts} attempts{}",
        error.as_ref().map_or_else(|| String::from(" (the file ends early)"), |e| format!(": {e}"))
    )]
    ReadFailed {
        /// The shard.
        path: PathBuf,
        /// Offset in the shard where the read begins.
        offset: u64,
        /// How many bytes had to come.
        wanted_bytes: u64,
        /// How many came.
        got_bytes: u64,
        /// How many read calls were made.
        attempts: u32,
        /// What the system said last; `None` if the last read was only too short.
        #[source]
        error: Option<io::Error>,
    },
    /// Memory did not come back in time, because reads into it that nobody waits for any more have not ended.
    #[error(
        "{path}: the disk does not answer: the read at {offset}, which was given up, has not ended for {} s, and the memory \
         of {n_bundles} such reads is waited for",
        waited.as_secs_f64()
    )]
    Stragglers {
        /// The shard of one of the reads.
        path: PathBuf,
        /// Offset in the shard where that one begins.
        offset: u64,
        /// How many bundles are still being read for nobody.
        n_bundles: usize,
        /// How long they were waited for.
        waited: Duration,
    },
    /// A shard was written to while it was open, so its bytes are not those whose header was read.
    #[error("{path}: was written to while it was open; open the model again")]
    Changed {
        /// The shard.
        path: PathBuf,
    },
    /// A storage implementation panicked in a reader thread.
    #[error("{path}: the read at {offset} panicked")]
    ReadPanicked {
        /// The shard.
        path: PathBuf,
        /// Offset in the shard where the read began.
        offset: u64,
    },
    /// The reader was dropped before this read was made.
    #[error("{path}: the reader was closed before the read at {offset}")]
    ReaderClosed {
        /// The shard.
        path: PathBuf,
        /// Offset in the shard where the read would have begun.
        offset: u64,
    },
    /// The system gave no io_uring for the shards of a reader, although it has some.
    #[error("cannot make an io_uring for {depth} reads of {n_files} files at once: {error}")]
    Ring {
        /// How many reads it was to hold.
        depth: usize,
        /// How many files it was to know.
        n_files: usize,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The system gave no reader thread.
    #[error("cannot start reader thread {thread_idx}: {error}")]
    Spawn {
        /// Which of the threads, from 0.
        thread_idx: usize,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}
