//! The head of a record: what it holds, and the checksum that shows whether it still does.

use std::path::Path;

use crate::bytes::{checksum_around, get, get_u32, put, put_u32};
use crate::{Chain, Digest, FORMAT_VERSION, KvError, PAGE_TOKENS, PageFormat};

/// Bytes of a record before its page: fixed fields, and the page's tokens.
pub const HEAD_BYTES: usize = TOKENS_OFFSET + PAGE_TOKENS * size_of::<u32>();

const MAGIC: [u8; 8] = *b"FLASHPG\0";
const VERSION_OFFSET: usize = 8;
const CHECKSUM_OFFSET: usize = 12;
const FORMAT_OFFSET: usize = 16;
const LAYER_OFFSET: usize = 20;
const PAGE_OFFSET: usize = 24;
const BEFORE_OFFSET: usize = 32;
const TOKENS_OFFSET: usize = 64;

/// What a record says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHead {
    /// How its page is stored.
    pub format: PageFormat,
    /// Which page of the context.
    pub page_idx: u32,
    /// Of which layer.
    pub layer_idx: u32,
    /// The pages before this one. So a record names all tokens up to its own end, and the place of its page in a tree of
    /// prefixes.
    pub before: Chain,
    /// The tokens of the page.
    pub token_ids: [u32; PAGE_TOKENS],
}

impl RecordHead {
    /// The pages up to and with this one.
    pub fn chain(&self) -> Chain {
        self.before.next(&self.token_ids)
    }
}

/// Which record is expected.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The file it was read from, for the error.
    pub path: &'a Path,
    /// How its page is to be stored.
    pub format: PageFormat,
    /// Which page of the context.
    pub page_idx: u32,
    /// Of which layer.
    pub layer_idx: u32,
}

impl Expected<'_> {
    pub(crate) fn refuse(&self, fault: RecordFault) -> KvError {
        let Self { path, page_idx, layer_idx, .. } = *self;
        KvError::Record { path: path.to_owned(), page_idx, layer_idx, fault }
    }
}

/// Why a record is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordFault {
    /// The file ends before the record does.
    #[error("ends early: wanted {wanted_bytes} B, got {got_bytes} B")]
    Short {
        /// Length of a record.
        wanted_bytes: usize,
        /// What of it is there.
        got_bytes: usize,
    },
    /// Nothing was ever written at its place.
    #[error("was never written")]
    Missing,
    /// Its first bytes are not those of a record.
    #[error("does not begin as a record does")]
    Magic,
    /// It was written by another version.
    #[error("has format version {got}, this program reads {FORMAT_VERSION}")]
    Version {
        /// The version it names.
        got: u32,
    },
    /// Some of its bits are not as they were written, or were never written.
    #[error("is damaged: its checksum is {wanted:08x}, its bytes have {got:08x}")]
    Checksum {
        /// What the record says.
        wanted: u32,
        /// What its bytes give.
        got: u32,
    },
    /// It is whole, but another record than the one at this place.
    #[error("has {field} {got} where {wanted} was expected")]
    Other {
        /// What is different.
        field: &'static str,
        /// What was expected.
        wanted: u32,
        /// What it is.
        got: u32,
    },
    /// It is whole, but does not go on from the pages before it, or its layers do not agree on the tokens.
    #[error("goes on from other tokens")]
    Chain,
}

/// Writes the head of a record, of which the rest is there.
///
/// # Panics
/// If the record is shorter than a head.
pub fn seal(record: &mut [u8], head: &RecordHead) {
    record[..TOKENS_OFFSET].fill(0);
    put(record, 0, &MAGIC);
    put_u32(record, VERSION_OFFSET, FORMAT_VERSION);
    put_u32(record, FORMAT_OFFSET, head.format.tag());
    put_u32(record, LAYER_OFFSET, head.layer_idx);
    put_u32(record, PAGE_OFFSET, head.page_idx);
    put(record, BEFORE_OFFSET, &head.before.0.0);
    for (bytes, id) in record[TOKENS_OFFSET..HEAD_BYTES].as_chunks_mut().0.iter_mut().zip(&head.token_ids) {
        *bytes = id.to_le_bytes();
    }
    let checksum = checksum_around(record, CHECKSUM_OFFSET);
    put_u32(record, CHECKSUM_OFFSET, checksum);
}

/// Checks every bit of a record, and that it is the one which is expected.
///
/// # Errors
/// [`KvError::Record`], which says what is wrong.
pub fn verify(record: &[u8], expected: &Expected<'_>) -> Result<RecordHead, KvError> {
    inspect(record, expected).map_err(|fault| expected.refuse(fault))
}

fn inspect(record: &[u8], expected: &Expected<'_>) -> Result<RecordHead, RecordFault> {
    if record.len() < HEAD_BYTES {
        return Err(RecordFault::Short { wanted_bytes: HEAD_BYTES, got_bytes: record.len() });
    }
    match get(record, 0) {
        MAGIC => {}
        [0, 0, 0, 0, 0, 0, 0, 0] => return Err(RecordFault::Missing),
        _ => return Err(RecordFault::Magic),
    }
    // Before the checksum: another version may keep it elsewhere.
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
    Ok(head(record, expected))
}

/// The head of a record of which only the head was read, unchecked: for finding out what is worth keeping, never for
/// decoding. None if it is not a head.
pub(crate) fn peek(record: &[u8; HEAD_BYTES]) -> Option<(u32, Chain)> {
    let known = get(record, 0) == MAGIC && get_u32(record, VERSION_OFFSET) == FORMAT_VERSION;
    known.then(|| (get_u32(record, PAGE_OFFSET), Chain(Digest(get(record, BEFORE_OFFSET)))))
}

fn head(record: &[u8], expected: &Expected<'_>) -> RecordHead {
    let mut token_ids = [0; PAGE_TOKENS];
    for (id, bytes) in token_ids.iter_mut().zip(record[TOKENS_OFFSET..HEAD_BYTES].as_chunks().0) {
        *id = u32::from_le_bytes(*bytes);
    }
    RecordHead {
        format: expected.format,
        page_idx: expected.page_idx,
        layer_idx: expected.layer_idx,
        before: Chain(Digest(get(record, BEFORE_OFFSET))),
        token_ids,
    }
}
