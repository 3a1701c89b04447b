//! Errors of the key-value cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::record::RecordFault;
use crate::{Digest, FORMAT_VERSION, PageFormat, TailPart};

/// An error of the key-value cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The context would exceed the capacity of the cache.
    #[error(
        "the context is full: {held_tokens} of {capacity_tokens} tokens are held, {wanted_tokens} more do not fit"
    )]
    Full {
        /// Tokens in the cache.
        held_tokens: usize,
        /// Tokens to add.
        wanted_tokens: usize,
        /// Capacity of the cache.
        capacity_tokens: usize,
    },
    /// The memory of the cache could not be allocated.
    #[error("no memory for a KV cache of {capacity_tokens} tokens")]
    Memory {
        /// Requested capacity.
        capacity_tokens: usize,
        /// The error of the budget or the operating system.
        source: flash_io::IoError,
    },
    /// A finite element of a key or value overflows half precision.
    #[error("{number} is beyond ±65504, the greatest numbers of keys and values at 16 bits")]
    F16Overflow {
        /// The element.
        number: f32,
    },
    /// An I/O operation on a file or directory of the cache failed.
    #[error("{path}: cannot {doing}: {error}")]
    Io {
        /// Path of the file or directory.
        path: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// The underlying error.
        #[source]
        error: io::Error,
    },
    /// A write to a page file failed; the file accepts no further writes.
    #[error(
        "{path}: writing {wanted_bytes} B at {offset} failed, the file accepts no further writes: {error}"
    )]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Offset of the write.
        offset: u64,
        /// Length of the write.
        wanted_bytes: u64,
        /// The underlying error.
        #[source]
        error: Arc<io::Error>,
    },
    /// A sync or truncation of a page file failed, so its contents on disk are unknown; the file accepts no further
    /// writes.
    #[error("{path}: cannot {doing}, the file accepts no further writes: {error}")]
    SyncFailed {
        /// Path of the file.
        path: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// The underlying error.
        #[source]
        error: Arc<io::Error>,
    },
    /// The disk or the user's quota is full.
    #[error("{path}: the disk is full, {wanted_bytes} B could not be written")]
    DiskFull {
        /// Path of the file.
        path: PathBuf,
        /// Length of the write.
        wanted_bytes: u64,
    },
    /// The file is locked by another process.
    #[error("{path}: in use by another process")]
    Locked {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file to create already exists.
    #[error("{path}: exists already")]
    Exists {
        /// Path of the file.
        path: PathBuf,
    },
    /// A file does not start with the magic of page files.
    #[error("{path}: not a KV page file")]
    NotAPageFile {
        /// Path of the file.
        path: PathBuf,
    },
    /// A file has an unsupported format version.
    #[error("{path}: has format version {got}, this program reads {FORMAT_VERSION}")]
    VersionMismatch {
        /// Path of the file.
        path: PathBuf,
        /// Version found in the file.
        got: u32,
    },
    /// A page file is shorter than its header.
    #[error("{path}: truncated header: wanted {wanted_bytes} B, got {got_bytes} B")]
    HeaderTruncated {
        /// Path of the file.
        path: PathBuf,
        /// Length of a header.
        wanted_bytes: u64,
        /// Length of the file.
        got_bytes: u64,
    },
    /// The header of a page file fails its checksum.
    #[error("{path}: its header is damaged: stored checksum {wanted:08x}, computed {got:08x}")]
    HeaderDamaged {
        /// Path of the file.
        path: PathBuf,
        /// Checksum stored in the header.
        wanted: u32,
        /// Checksum computed from its bytes.
        got: u32,
    },
    /// The file belongs to a different model.
    #[error(
        "{path}: belongs to another model: weights, configuration or arithmetic differ ({got:.16}, expected \
         {wanted:.16})"
    )]
    ModelMismatch {
        /// Path of the file.
        path: PathBuf,
        /// Expected model.
        wanted: Digest,
        /// Model of the file.
        got: Digest,
    },
    /// The file stores pages in a different format.
    #[error("{path}: holds pages in {got}, not in {wanted}")]
    FormatMismatch {
        /// Path of the file.
        path: PathBuf,
        /// Expected format.
        wanted: PageFormat,
        /// Format of the file.
        got: PageFormat,
    },
    /// The file was created with a different window length.
    #[error("{path}: was created with a window of {got_tokens} tokens, not {wanted_tokens}")]
    WindowMismatch {
        /// Path of the file.
        path: PathBuf,
        /// Expected window length.
        wanted_tokens: u32,
        /// Window length of the file.
        got_tokens: u32,
    },
    /// The file has a different geometry.
    #[error("{path}: has {got} as {field}, not {wanted}")]
    GeometryMismatch {
        /// Path of the file.
        path: PathBuf,
        /// Name of the differing field.
        field: &'static str,
        /// Expected value.
        wanted: u32,
        /// Value in the file.
        got: u32,
    },
    /// The record of a page in a layer is missing or invalid.
    #[error("{path}: page {page_idx} of layer {layer_idx} {fault}")]
    Record {
        /// Path of the file.
        path: PathBuf,
        /// Index of the page in the context.
        page_idx: u32,
        /// Index of the layer.
        layer_idx: u32,
        /// The reason.
        #[source]
        fault: RecordFault,
    },
    /// The writer ended before all submitted records were written.
    #[error("{path}: {unwritten_records} records were not written: their writer was closed")]
    WriterClosed {
        /// Path of the file.
        path: PathBuf,
        /// Records submitted but not written.
        unwritten_records: u64,
    },
    /// The name is not a valid session name.
    #[error(
        "session name {name:?}: a name is 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter, \
         digit or underscore"
    )]
    SessionName {
        /// The rejected name.
        name: String,
    },
    /// No session has this name.
    #[error("{path}: there is no such session")]
    NoSession {
        /// Directory where it was looked for.
        path: PathBuf,
    },
    /// The manifest of a session cannot be parsed.
    #[error("{path}: not a session manifest: {error}")]
    SessionSyntax {
        /// Path of the file.
        path: PathBuf,
        /// The parse error.
        #[source]
        error: serde_json::Error,
    },
    /// The manifest of a session fails its checksum or contradicts itself.
    #[error("{path}: is damaged: stored checksum {wanted:08x}, computed {got:08x}")]
    SessionDamaged {
        /// Path of the file.
        path: PathBuf,
        /// Checksum stored in the file.
        wanted: u32,
        /// Checksum computed from its contents.
        got: u32,
    },
    /// The list of models of a cache directory cannot be parsed.
    #[error("{path}: not a list of cached models: {error}")]
    ModelsSyntax {
        /// Path of the file.
        path: PathBuf,
        /// The parse error.
        error: serde_json::Error,
    },
    /// The list of models of a cache directory was written by a newer version.
    #[error(
        "{path}: was written by a newer program: it has format version {got}, this one reads {FORMAT_VERSION}"
    )]
    ModelsVersion {
        /// Path of the file.
        path: PathBuf,
        /// Version found in the file.
        got: u32,
    },
    /// Part of a session's tail fails its checksum.
    #[error("{path}: {part} is damaged: stored checksum {wanted:08x}, computed {got:08x}")]
    TailDamaged {
        /// Path of the file.
        path: PathBuf,
        /// The first damaged part.
        part: TailPart,
        /// Checksum stored in the manifest.
        wanted: u32,
        /// Checksum computed from the bytes.
        got: u32,
    },
    /// The saved states differ in size from those of the model.
    #[error("{path}: its states take {got_bytes:?} B, those of the model take {wanted_bytes:?}")]
    StatesMismatch {
        /// Path of the file.
        path: PathBuf,
        /// Sizes expected by the model.
        wanted_bytes: Vec<usize>,
        /// Sizes in the session.
        got_bytes: Vec<usize>,
    },
    /// Bytes read back from a scratch file are not those that were written.
    #[error("{path}: a temporary file in it is damaged: stored checksum {wanted:08x}, computed {got:08x}")]
    Spooled {
        /// Directory of the file.
        path: PathBuf,
        /// Checksum of the bytes that were written.
        wanted: u32,
        /// Checksum of the bytes that were read.
        got: u32,
    },
    /// Pages that the saved state needs are missing: lost in a crash, or replaced after the context was rewound.
    #[error("{path}: its last saved state needs {wanted_pages} pages of its tokens, {got_pages} are there")]
    SavedPagesMissing {
        /// Path of the manifest.
        path: PathBuf,
        /// Pages that the saved state needs.
        wanted_pages: usize,
        /// Matching pages in the page file.
        got_pages: usize,
    },
}

impl KvError {
    /// Returns a closure for `map_err` that adds the path and the operation.
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), doing, error }
    }

    /// Like [`io`](Self::io), for writes: a full disk becomes [`DiskFull`](Self::DiskFull).
    pub(crate) fn writing(path: &Path, wanted_bytes: usize) -> impl FnOnce(io::Error) -> Self {
        move |error| match is_full(&error) {
            true => Self::DiskFull { path: path.to_owned(), wanted_bytes: wanted_bytes as u64 },
            false => Self::Io { path: path.to_owned(), doing: "write", error },
        }
    }
}

/// Whether the error says that the disk, the quota or the file-size limit is exhausted.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
