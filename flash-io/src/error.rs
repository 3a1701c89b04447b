//! Errors of this crate.

mod header;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lfs::LfsPointer;
use crate::mode::IoMode;

pub use header::HeaderFault;

/// Error of finding, holding or reading a model's bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// A file or directory could not be opened or examined.
    #[error("{path}: {error}")]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
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
        /// The parsed pointer.
        pointer: LfsPointer,
    },
    /// A shard's header is invalid.
    #[error("{path}: {fault}")]
    Header {
        /// The shard.
        path: PathBuf,
        /// The rule that the header breaks.
        #[source]
        fault: HeaderFault,
    },
    /// An index file exceeds the size limit.
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
    /// An index file names a shard by anything but a plain file name.
    #[error("{path}: tensor {tensor:?} is in {shard:?}, which is not a plain file name")]
    IndexShardName {
        /// The index file.
        path: PathBuf,
        /// A tensor mapped to that shard.
        tensor: String,
        /// The rejected shard name.
        shard: String,
    },
    /// An index file names a shard that does not exist.
    #[error("{path}: names shard {shard}, which does not exist")]
    MissingShard {
        /// The index file.
        path: PathBuf,
        /// The missing shard.
        shard: PathBuf,
    },
    /// An index file names a tensor that its shard does not hold.
    #[error("{path}: names tensor {tensor:?}, which is not in {shard}")]
    MissingTensor {
        /// The index file.
        path: PathBuf,
        /// The shard that was searched.
        shard: PathBuf,
        /// The missing tensor.
        tensor: String,
    },
    /// Two shards of a model without an index hold the same tensor.
    #[error("{path}: tensor {tensor:?} is also in {other}")]
    DuplicateTensor {
        /// The second shard that holds the tensor.
        path: PathBuf,
        /// The first shard that holds it.
        other: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The file system of a file does not support direct reads.
    #[error("{path}: its file system does not support direct reads; {alternative} reads work everywhere")]
    DirectUnsupported {
        /// The file.
        path: PathBuf,
        /// A mode that works for the file.
        alternative: IoMode,
    },
    /// The device of a file requires a coarser alignment of direct reads than this crate supports.
    #[error(
        "{path}: direct reads must be aligned to {wanted_bytes} B, at most {max_bytes} B are supported; \
         {alternative} reads work everywhere"
    )]
    DirectAlignment {
        /// The file.
        path: PathBuf,
        /// The alignment that the kernel requires.
        wanted_bytes: u64,
        /// The alignment of all direct reads, [`DIRECT_ALIGN`](crate::DIRECT_ALIGN).
        max_bytes: u64,
        /// A mode that works for the file.
        alternative: IoMode,
    },
    /// This process cannot create an io_uring: the system is too old, is not Linux, or forbids it.
    #[error(
        "{path}: io_uring is not available to this process ({error}); {alternative} reads work without it"
    )]
    UringUnsupported {
        /// The file that was to be read through the ring.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        error: io::Error,
        /// A mode that works for the file.
        alternative: IoMode,
    },
    /// The name of an I/O mode is unknown.
    #[error("unknown I/O mode {given:?}, expected one of auto, uring, direct, pread, mmap")]
    UnknownMode {
        /// The name given.
        given: String,
    },
    /// A reservation does not fit into its budget.
    #[error("{wanted_bytes} B do not fit the memory budget: {free_bytes} B of {total_bytes} B are free")]
    OverBudget {
        /// Bytes asked for.
        wanted_bytes: u64,
        /// Bytes free at that moment.
        free_bytes: u64,
        /// The whole budget.
        total_bytes: u64,
    },
    /// The system refused to map memory that the budget had room for.
    #[error("cannot map {wanted_bytes} B of memory: {error}")]
    Map {
        /// Bytes asked for.
        wanted_bytes: u64,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
    /// A read failed after all retries, or with an error that is not retried.
    #[error(
        "{path}: read at {offset} wanted {wanted_bytes} B, got {got_bytes} B after {attempts} attempts{}",
        error.as_ref().map_or_else(|| String::from(" (the file ends early)"), |e| format!(": {e}"))
    )]
    ReadFailed {
        /// The shard.
        path: PathBuf,
        /// Offset in the shard where the read begins.
        offset: u64,
        /// Bytes required.
        wanted_bytes: u64,
        /// Bytes read.
        got_bytes: u64,
        /// Number of read calls.
        attempts: u32,
        /// The operating system's last error; `None` if the last read was only short.
        #[source]
        error: Option<io::Error>,
    },
    /// Slots were not released in time, because cancelled reads into them are still in flight.
    #[error(
        "{path}: the disk does not answer: {n_bundles} cancelled bundles, one of them at {offset}, still hold their \
         memory after {} s",
        waited.as_secs_f64()
    )]
    CancelledReads {
        /// The shard of one of these reads.
        path: PathBuf,
        /// Offset in the shard where that read begins.
        offset: u64,
        /// Number of cancelled bundles with reads in flight.
        n_bundles: usize,
        /// Time waited.
        waited: Duration,
    },
    /// A shard was written to while it was open, so its bytes may no longer match its header.
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
    /// The reader was dropped before this read began.
    #[error("{path}: the reader was closed before the read at {offset}")]
    ReaderClosed {
        /// The shard.
        path: PathBuf,
        /// Offset in the shard where the read would have begun.
        offset: u64,
    },
    /// The system failed to create an io_uring for the shards of a reader, although it supports io_uring.
    #[error("cannot create an io_uring for {depth} concurrent reads of {n_files} files: {error}")]
    Ring {
        /// Requested reads in flight.
        depth: usize,
        /// Number of files to register.
        n_files: usize,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
    /// The system failed to start a reader thread.
    #[error("cannot start reader thread {thread_idx}: {error}")]
    Spawn {
        /// Index of the thread, from 0.
        thread_idx: usize,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
}

impl IoError {
    /// Returns a closure for `map_err` that makes an [`Open`](Self::Open) error of `path`.
    pub(crate) fn cannot_open(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Open { path: path.to_owned(), error }
    }
}
