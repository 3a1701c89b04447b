//! Header of a record: identifies the page and carries the checksum of the whole record.

use std::path::Path;

use crate::bytes::{checksum_around, get, get_u32, put, put_u32};
use crate::{Chain, Digest, FORMAT_VERSION, KvError, PAGE_TOKENS, PageFormat};

/// Length of a record's header: fixed fields, then the page's token ids.
pub const RECORD_HEADER_BYTES: usize = TOKENS_OFFSET + PAGE_TOKENS * size_of::<u32>();

const MAGIC: [u8; 8] = *b"FLASHPG\0";
const VERSION_OFFSET: usize = 8;
const CHECKSUM_OFFSET: usize = 12;
const FORMAT_OFFSET: usize = 16;
const LAYER_OFFSET: usize = 20;
const PAGE_OFFSET: usize = 24;
const BEFORE_OFFSET: usize = 32;
const TOKENS_OFFSET: usize = 64;

/// The parsed header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    /// Storage format of the page.
    pub format: PageFormat,
    /// Index of the page in the context.
    pub page_idx: u32,
    /// Index of the layer.
    pub layer_idx: u32,
    /// Hash of the prefix before this page. It makes a record identify all tokens up to its own end, and the page's
    /// parent in the tree of prefixes.
    pub before: Chain,
    /// Token ids of the page.
    pub token_ids: [u32; PAGE_TOKENS],
}

impl RecordHeader {
    /// Returns the hash of the prefix up to and including this page.
    pub fn chain(&self) -> Chain {
        self.before.next(&self.token_ids)
    }
}

/// The record that a reader expects.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedRecord<'a> {
    /// Path of the file, for errors.
    pub path: &'a Path,
    /// Storage format of the page.
    pub format: PageFormat,
    /// Index of the page in the context.
    pub page_idx: u32,
    /// Index of the layer.
    pub layer_idx: u32,
}

impl ExpectedRecord<'_> {
    pub(crate) fn refuse(&self, fault: RecordFault) -> KvError {
        let Self { path, page_idx, layer_idx, .. } = *self;
        KvError::Record { path: path.to_owned(), page_idx, layer_idx, fault }
    }
}

/// The reason why a record is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordFault {
    /// The file ends within the record.
    #[error("ends early: wanted {wanted_bytes} B, got {got_bytes} B")]
    Short {
        /// Length of a record.
        wanted_bytes: usize,
        /// Bytes available.
        got_bytes: usize,
    },
    /// Its place in the file holds zeroes: it was never written.
    #[error("was never written")]
    Missing,
    /// The record does not start with the magic of records.
    #[error("does not start with the magic of a record")]
    Magic,
    /// The record has an unsupported format version.
    #[error("has format version {got}, this program reads {FORMAT_VERSION}")]
    Version {
        /// Version found in the record.
        got: u32,
    },
    /// Its checksum does not match: it is damaged or only partly written.
    #[error("is damaged: stored checksum {wanted:08x}, computed {got:08x}")]
    Checksum {
        /// Checksum stored in the record.
        wanted: u32,
        /// Checksum computed from its bytes.
        got: u32,
    },
    /// The record is intact, but a different record than the expected one.
    #[error("has {field} {got} where {wanted} was expected")]
    Other {
        /// Name of the differing field.
        field: &'static str,
        /// Expected value.
        wanted: u32,
        /// Value in the record.
        got: u32,
    },
    /// The record is intact, but does not continue the pages before it, or its layers disagree on the tokens.
    #[error("continues other tokens than those before it")]
    Chain,
}

/// Seals a record: writes its header, with the checksum, in front of the complete page.
///
/// # Panics
/// If the record is shorter than a header.
pub fn seal(record: &mut [u8], head: &RecordHeader) {
    record[..TOKENS_OFFSET].fill(0);
    put(record, 0, &MAGIC);
    put_u32(record, VERSION_OFFSET, FORMAT_VERSION);
    put_u32(record, FORMAT_OFFSET, head.format.tag());
    put_u32(record, LAYER_OFFSET, head.layer_idx);
    put_u32(record, PAGE_OFFSET, head.page_idx);
    put(record, BEFORE_OFFSET, &head.before.0.0);
    for (bytes, id) in
        record[TOKENS_OFFSET..RECORD_HEADER_BYTES].as_chunks_mut().0.iter_mut().zip(&head.token_ids)
    {
        *bytes = id.to_le_bytes();
    }
    let checksum = checksum_around(record, CHECKSUM_OFFSET);
    put_u32(record, CHECKSUM_OFFSET, checksum);
}

/// Verifies the checksum of a record, and that it is the expected one; returns its header.
///
/// # Errors
/// [`KvError::Record`] with the reason.
pub fn verify(record: &[u8], expected: &ExpectedRecord<'_>) -> Result<RecordHeader, KvError> {
    inspect(record, expected).map_err(|fault| expected.refuse(fault))
}

fn inspect(record: &[u8], expected: &ExpectedRecord<'_>) -> Result<RecordHeader, RecordFault> {
    if record.len() < RECORD_HEADER_BYTES {
        return Err(RecordFault::Short { wanted_bytes: RECORD_HEADER_BYTES, got_bytes: record.len() });
    }
    match get(record, 0) {
        MAGIC => {}
        [0, 0, 0, 0, 0, 0, 0, 0] => return Err(RecordFault::Missing),
        _ => return Err(RecordFault::Magic),
    }
    // The version is checked before the checksum, whose position depends on it.
    let version = get_u32(record, VERSION_OFFSET);
    if version != FORMAT_VERSION {
        return Err(RecordFault::Version { got: version });
    }
    let (wanted, got) = (get_u32(record, CHECKSUM_OFFSET), checksum_around(record, CHECKSUM_OFFSET));
    if wanted != got {
        return Err(RecordFault::Checksum { wanted, got });
    }
    let fields = [
        ("page format", FORMAT_OFFSET, expected.format.tag()),
        ("page", PAGE_OFFSET, expected.page_idx),
        ("layer", LAYER_OFFSET, expected.layer_idx),
    ];
    for (field, offset, wanted) in fields {
        let got = get_u32(record, offset);
        if got != wanted {
            return Err(RecordFault::Other { field, wanted, got });
        }
    }
    Ok(parse_header(record, expected))
}

/// Returns page index and parent hash from an unverified header, and `None` if it is not a header. Good enough to rank
/// pages for eviction, never for decoding.
pub(crate) fn peek(record: &[u8; RECORD_HEADER_BYTES]) -> Option<(u32, Chain)> {
    let known = get(record, 0) == MAGIC && get_u32(record, VERSION_OFFSET) == FORMAT_VERSION;
    known.then(|| (get_u32(record, PAGE_OFFSET), Chain(Digest(get(record, BEFORE_OFFSET)))))
}

fn parse_header(record: &[u8], expected: &ExpectedRecord<'_>) -> RecordHeader {
    let mut token_ids = [0; PAGE_TOKENS];
    for (id, bytes) in token_ids.iter_mut().zip(record[TOKENS_OFFSET..RECORD_HEADER_BYTES].as_chunks().0) {
        *id = u32::from_le_bytes(*bytes);
    }
    RecordHeader {
        format: expected.format,
        page_idx: expected.page_idx,
        layer_idx: expected.layer_idx,
        before: Chain(Digest(get(record, BEFORE_OFFSET))),
        token_ids,
    }
}
