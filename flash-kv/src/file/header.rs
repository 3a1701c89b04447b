//! Header of a page file: identifies the cache that its pages belong to.

use std::fs::File;
use std::path::Path;

use super::read_full;
use crate::bytes::{checksum_around, get, get_u32, put, put_u32};
use crate::{Digest, FORMAT_VERSION, Identity, KvError, PAGE_TOKENS, PageFormat};

/// Length of the header of a page file: one block of direct reads, so that records are aligned.
pub const FILE_HEADER_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"FLASHKV\0";
const VERSION_OFFSET: usize = 8;
const CHECKSUM_OFFSET: usize = 12;
const MODEL_OFFSET: usize = 16;
const N_LAYERS_OFFSET: usize = 48;
const KV_HEADS_OFFSET: usize = 52;
const HEAD_DIM_OFFSET: usize = 56;
const PAGE_TOKENS_OFFSET: usize = 60;
const FORMAT_OFFSET: usize = 64;
const WINDOW_FORMAT_OFFSET: usize = 68;
const WINDOW_TOKENS_OFFSET: usize = 72;
const HALVES_OFFSET: usize = 76;

pub(super) fn encode(identity: &Identity) -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    put(&mut header, 0, &MAGIC);
    put_u32(&mut header, VERSION_OFFSET, FORMAT_VERSION);
    put(&mut header, MODEL_OFFSET, &identity.model.0);
    put_u32(&mut header, FORMAT_OFFSET, identity.geometry.format.tag());
    put_u32(&mut header, WINDOW_TOKENS_OFFSET, identity.geometry.window_tokens);
    for (_, offset, number) in geometry_fields(identity) {
        put_u32(&mut header, offset, number);
    }
    let checksum = checksum_around(&header, CHECKSUM_OFFSET);
    put_u32(&mut header, CHECKSUM_OFFSET, checksum);
    header
}

/// Returns name, offset and value of each geometry field that is reported as [`KvError::GeometryMismatch`].
fn geometry_fields(identity: &Identity) -> [(&'static str, usize, u32); 6] {
    let geometry = &identity.geometry;
    [
        ("number of layers", N_LAYERS_OFFSET, geometry.n_layers),
        ("number of KV heads", KV_HEADS_OFFSET, geometry.kv_heads),
        ("head dimension", HEAD_DIM_OFFSET, geometry.head_dim),
        ("stored keys and values", HALVES_OFFSET, geometry.parts.tag()),
        ("tokens per page", PAGE_TOKENS_OFFSET, PAGE_TOKENS as u32),
        ("window format", WINDOW_FORMAT_OFFSET, geometry.window_format.tag()),
    ]
}

/// Checks that the file is a page file of `identity`.
pub(super) fn check(file: &File, path: &Path, identity: &Identity) -> Result<(), KvError> {
    let mut header = [0; FILE_HEADER_BYTES];
    let got_bytes = read_full(file, 0, &mut header).map_err(KvError::io(path, "read"))?;
    let path = || path.to_owned();
    if get(&header, 0) != MAGIC {
        return Err(KvError::NotAPageFile { path: path() });
    }
    if got_bytes < FILE_HEADER_BYTES {
        let (wanted_bytes, got_bytes) = (FILE_HEADER_BYTES as u64, got_bytes as u64);
        return Err(KvError::HeaderTruncated { path: path(), wanted_bytes, got_bytes });
    }
    // The version is checked before the checksum, whose position depends on it.
    let version = get_u32(&header, VERSION_OFFSET);
    if version != FORMAT_VERSION {
        return Err(KvError::VersionMismatch { path: path(), got: version });
    }
    let (wanted, got) = (get_u32(&header, CHECKSUM_OFFSET), checksum_around(&header, CHECKSUM_OFFSET));
    if wanted != got {
        return Err(KvError::HeaderDamaged { path: path(), wanted, got });
    }
    let model = Digest(get(&header, MODEL_OFFSET));
    if model != identity.model {
        return Err(KvError::ModelMismatch { path: path(), wanted: identity.model, got: model });
    }
    // The page format goes first: the window format follows from it and would be a less helpful error.
    let (wanted, tag) = (identity.geometry.format, get_u32(&header, FORMAT_OFFSET));
    match PageFormat::ALL.iter().find(|format| format.tag() == tag) {
        Some(got) if *got == wanted => {}
        Some(got) => return Err(KvError::FormatMismatch { path: path(), wanted, got: *got }),
        None => {
            let field = "page format";
            return Err(KvError::GeometryMismatch { path: path(), field, wanted: wanted.tag(), got: tag });
        }
    }
    for (field, offset, wanted) in geometry_fields(identity) {
        let got = get_u32(&header, offset);
        if got != wanted {
            return Err(KvError::GeometryMismatch { path: path(), field, wanted, got });
        }
    }
    let (wanted_tokens, got_tokens) =
        (identity.geometry.window_tokens, get_u32(&header, WINDOW_TOKENS_OFFSET));
    if wanted_tokens != got_tokens {
        return Err(KvError::WindowMismatch { path: path(), wanted_tokens, got_tokens });
    }
    Ok(())
}
