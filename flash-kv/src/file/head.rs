//! The head of a file of pages: whose they are.

use std::fs::File;
use std::path::Path;

use super::read_full;
use crate::bytes::{checksum_around, get, get_u32, put, put_u32};
use crate::{Digest, FORMAT_VERSION, Identity, KvError, PAGE_TOKENS, PageFormat};

/// Bytes of a file of pages before its first record: a block of direct reads.
pub const FILE_HEAD_BYTES: usize = 4096;

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

pub(super) fn encode(identity: &Identity) -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    put(&mut head, 0, &MAGIC);
    put_u32(&mut head, VERSION_OFFSET, FORMAT_VERSION);
    put(&mut head, MODEL_OFFSET, &identity.model.0);
    put_u32(&mut head, FORMAT_OFFSET, identity.geometry.format.tag());
    put_u32(&mut head, WINDOW_TOKENS_OFFSET, identity.geometry.window_tokens);
    for (_, offset, number) in shape(identity) {
        put_u32(&mut head, offset, number);
    }
    let checksum = checksum_around(&head, CHECKSUM_OFFSET);
    put_u32(&mut head, CHECKSUM_OFFSET, checksum);
    head
}

/// What has no error of its own: name, offset and what is there.
fn shape(identity: &Identity) -> [(&'static str, usize, u32); 6] {
    let geometry = &identity.geometry;
    [
        ("number of layers", N_LAYERS_OFFSET, geometry.n_layers),
        ("number of KV heads", KV_HEADS_OFFSET, geometry.kv_heads),
        ("dimension of a head", HEAD_DIM_OFFSET, geometry.head_dim),
        ("halves that are kept", HALVES_OFFSET, geometry.halves.tag()),
        ("tokens of a page", PAGE_TOKENS_OFFSET, PAGE_TOKENS as u32),
        ("format of the window", WINDOW_FORMAT_OFFSET, geometry.window_format.tag()),
    ]
}

/// Whether the file is one of `identity`.
pub(super) fn check(file: &File, path: &Path, identity: &Identity) -> Result<(), KvError> {
    let mut head = [0; FILE_HEAD_BYTES];
    let got_bytes = read_full(file, 0, &mut head).map_err(KvError::io(path, "read"))?;
    let path = || path.to_owned();
    if get(&head, 0) != MAGIC {
        return Err(KvError::Foreign { path: path() });
    }
    if got_bytes < FILE_HEAD_BYTES {
        let (wanted_bytes, got_bytes) = (FILE_HEAD_BYTES as u64, got_bytes as u64);
        return Err(KvError::HeadShort { path: path(), wanted_bytes, got_bytes });
    }
    // Before the checksum: another version may keep it elsewhere.
    let version = get_u32(&head, VERSION_OFFSET);
    if version != FORMAT_VERSION {
        return Err(KvError::OtherVersion { path: path(), got: version });
    }
    let (wanted, got) = (get_u32(&head, CHECKSUM_OFFSET), checksum_around(&head, CHECKSUM_OFFSET));
    if wanted != got {
        return Err(KvError::HeadDamaged { path: path(), wanted, got });
    }
    let model = Digest(get(&head, MODEL_OFFSET));
    if model != identity.model {
        return Err(KvError::OtherModel { path: path(), wanted: identity.model, got: model });
    }
    // The format first: that of the window follows from it, and says less.
    let (wanted, tag) = (identity.geometry.format, get_u32(&head, FORMAT_OFFSET));
    match PageFormat::ALL.iter().find(|format| format.tag() == tag) {
        Some(got) if *got == wanted => {}
        Some(got) => return Err(KvError::OtherFormat { path: path(), wanted, got: *got }),
        None => {
            let field = "format of pages";
            return Err(KvError::OtherGeometry { path: path(), field, wanted: wanted.tag(), got: tag });
        }
    }
    for (field, offset, wanted) in shape(identity) {
        let got = get_u32(&head, offset);
        if got != wanted {
            return Err(KvError::OtherGeometry { path: path(), field, wanted, got });
        }
    }
    let (wanted_tokens, got_tokens) = (identity.geometry.window_tokens, get_u32(&head, WINDOW_TOKENS_OFFSET));
    if wanted_tokens != got_tokens {
        return Err(KvError::OtherWindow { path: path(), wanted_tokens, got_tokens });
    }
    Ok(())
}
