//! What can go wrong with a cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::record::RecordFault;
use crate::{Digest, FORMAT_VERSION, PageFormat, TailPart};

/// Why the cache could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The context is longer than the cache was made for.
    #[error(
        "the context is full: {held_tokens} of {capacity_tokens} tokens are held, {wanted_tokens} more do not fit"
    )]
    Full {
        /// Tokens in the cache.
        held_tokens: usize,
        /// Tokens that were to be added.
        wanted_tokens: usize,
        /// What the cache was made for.
        capacity_tokens: usize,
    },
    /// Memory for the cache could not be had.
    #[error("no memory for a KV cache of {capacity_tokens} tokens")]
    Memory {
        /// What the cache was to hold.
        capacity_tokens: usize,
        /// What the budget or the system said.
        source: flash_io::IoError,
    },
    /// A finite number of a key or value is too great for half precision, and would have become an infinity.
    #[error("{number} is beyond ±65504, the greatest numbers of keys and values at 16 bits")]
    HalfRange {
        /// The number.
        number: f32,
    },
    /// A file or directory of the cache could not be worked with.
    #[error("{path}: cannot {doing}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A write to a file of pages failed. The file takes no further ones.
    #[error("{path}: write at {offset} of {wanted_bytes} B failed, nothing more is written there: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Where the write began.
        offset: u64,
        /// What was to be written.
        wanted_bytes: u64,
        /// What the system said.
        #[source]
        error: Arc<io::Error>,
    },
    /// What was written to a file of pages may not have reached the disk, or the file could not be cut. It takes no further
    /// writes.
    #[error("{path}: cannot {doing}, nothing more is written there: {error}")]
    Unsure {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        error: Arc<io::Error>,
    },
    /// The disk, or the share of it that the user may fill, is full.
    #[error("{path}: the disk is full, {wanted_bytes} B could not be written")]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
        /// What was to be written.
        wanted_bytes: u64,
    },
    /// Another process uses the file.
    #[error("{path}: another process uses it")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is a file already where one was to be made.
    #[error("{path}: exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file does not begin as a file of pages does.
    #[error("{path}: not a file of KV pages")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file was written in another format.
    #[error("{path}: has format version {got}, this program reads {FORMAT_VERSION}")]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// The version it names.
        got: u32,
    },
    /// A file of pages ends within its head.
    #[error("{path}: ends within its head: wanted {wanted_bytes} B, got {got_bytes} B")]
    HeadShort {
        /// The file.
        path: PathBuf,
        /// Length of a head.
        wanted_bytes: u64,
        /// Length of the file.
        got_bytes: u64,
    },
    /// The head of a file of pages is not as it was written.
    #[error("{path}: its head is damaged: its checksum is {wanted:08x}, its bytes have {got:08x}")]
    HeadDamaged {
        /// The file.
        path: PathBuf,
        /// What the head says.
        wanted: u32,
        /// What its bytes give.
        got: u32,
    },
    /// A cache is another model's.
    #[error(
        "{path}: belongs to another model: to other weights, another configuration, or numbers that are computed \
         otherwise ({got:.16}, this one is {wanted:.16})"
    )]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The model that was to go on.
        wanted: Digest,
        /// The model of the file.
        got: Digest,
    },
    /// A cache has another quantisation.
    #[error("{path}: holds pages in {got}, not in {wanted}")]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// The format that was asked for.
        wanted: PageFormat,
        /// The format of the file.
        got: PageFormat,
    },
    /// A cache was made with another window of recent tokens.
    #[error("{path}: was made with a window of {got_tokens} tokens, not of {wanted_tokens}")]
    OtherWindow {
        /// The file.
        path: PathBuf,
        /// The window that was asked for.
        wanted_tokens: u32,
        /// The window of the file.
        got_tokens: u32,
    },
    /// A cache has another shape.
    #[error("{path}: has {got} as {field}, not {wanted}")]
    OtherGeometry {
        /// The file.
        path: PathBuf,
        /// What is different.
        field: &'static str,
        /// What was asked for.
        wanted: u32,
        /// What the file says.
        got: u32,
    },
    /// A page of a layer cannot be used.
    #[error("{path}: page {page_idx} of layer {layer_idx} {fault}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Which page of the context.
        page_idx: u32,
        /// Of which layer.
        layer_idx: u32,
        /// What is wrong with it.
        #[source]
        fault: RecordFault,
    },
    /// The thread that writes behind the computation has ended before all was written.
    #[error("{path}: {unwritten_records} records were not written: their writer was closed")]
    WriterClosed {
        /// The file.
        path: PathBuf,
        /// Records that were submitted and are not in the file.
        unwritten_records: u64,
    },
    /// A name cannot be a session's.
    #[error(
        "session name {name:?}: a name is 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter, \
         digit or underscore"
    )]
    SessionName {
        /// What was given.
        name: String,
    },
    /// There is no session of that name.
    #[error("{path}: there is no such session")]
    NoSession {
        /// Where it would be.
        path: PathBuf,
    },
    /// What is known of a session cannot be read.
    #[error("{path}: not a description of a session: {error}")]
    SessionSyntax {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        #[source]
        error: serde_json::Error,
    },
    /// What is known of a session is not as it was written.
    #[error("{path}: is damaged: its checksum is {wanted:08x}, its contents have {got:08x}")]
    SessionDamaged {
        /// The file.
        path: PathBuf,
        /// What the file says.
        wanted: u32,
        /// What its contents give.
        got: u32,
    },
    /// The list of the models whose pages a directory holds cannot be read.
    #[error("{path}: not a list of the models whose pages are kept here: {error}")]
    ModelsSyntax {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        error: serde_json::Error,
    },
    /// The list of the models whose pages a directory holds was written by a newer program.
    #[error(
        "{path}: was written by a newer program: it has format version {got}, this one reads {FORMAT_VERSION}"
    )]
    ModelsVersion {
        /// The file.
        path: PathBuf,
        /// The version it names.
        got: u32,
    },
    /// What is not sealed of a session is not as it was written.
    #[error("{path}: {part} is damaged: its checksum is {wanted:08x}, its bytes have {got:08x}")]
    TailDamaged {
        /// The file.
        path: PathBuf,
        /// The first part of which that is so.
        part: TailPart,
        /// What the session says.
        wanted: u32,
        /// What the bytes give.
        got: u32,
    },
    /// The states of a session are not as long as those of the model.
    #[error("{path}: it has states of {got_bytes:?} B, those of the model have {wanted_bytes:?}")]
    OtherStates {
        /// The file.
        path: PathBuf,
        /// Those of the model.
        wanted_bytes: Vec<usize>,
        /// Those of the session.
        got_bytes: Vec<usize>,
    },
    /// The pages that a saved state of a session needs are not there: some were lost, or the context was rewound and went on
    /// otherwise.
    #[error("{path}: its last saved state needs {wanted_pages} pages of its tokens, {got_pages} are there")]
    SavedPagesGone {
        /// The description of the session.
        path: PathBuf,
        /// Pages of the saved state.
        wanted_pages: usize,
        /// Those of them that the file of pages holds.
        got_pages: usize,
    },
}

impl KvError {
    /// For `map_err`: what was done to which file.
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), doing, error }
    }

    /// Like [`io`](Self::io), for what takes space on the disk.
    pub(crate) fn writing(path: &Path, wanted_bytes: usize) -> impl FnOnce(io::Error) -> Self {
        move |error| match is_full(&error) {
            true => Self::DiskFull { path: path.to_owned(), wanted_bytes: wanted_bytes as u64 },
            false => Self::Io { path: path.to_owned(), doing: "write", error },
        }
    }
}

/// Whether there is no room for what was to be written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
