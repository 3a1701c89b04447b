//! A small cache, and records whose contents depend on their tokens.

use flash_kv::{
    Chain, Digest, Geometry, Identity, KvParts, PAGE_TOKENS, PageFile, PageFormat, PageLayout,
    RECORD_HEADER_BYTES, RecordHeader, seal,
};

pub(crate) const N_LAYERS: u32 = 2;

pub(crate) fn identity() -> Identity {
    let geometry = Geometry {
        n_layers: N_LAYERS,
        kv_heads: 1,
        head_dim: 64,
        parts: KvParts::KeysAndValues,
        format: PageFormat::Int4,
        window_format: PageFormat::F16,
        window_tokens: 128,
    };
    Identity { model: Digest([3; 32]), geometry }
}

/// Returns pseudo-random bytes; different seeds give different bytes.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Returns pseudo-random token ids; different seeds give different ids.
pub(crate) fn tokens(n: usize, seed: u64) -> Vec<u32> {
    noise(4 * n, seed).as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) % 50_000).collect()
}

/// Returns the hash of the prefix before page `page_idx` of `token_ids`.
pub(crate) fn before(identity: &Identity, token_ids: &[u32], page_idx: u32) -> Chain {
    let pages = Chain::pages(identity, &token_ids[..page_idx as usize * PAGE_TOKENS]);
    pages.last().unwrap_or_else(|| Chain::root(identity))
}

/// Returns the record of a page of `token_ids`, whose contents depend on all tokens up to its end, as with a model.
pub(crate) fn record_in(
    layout: &PageLayout,
    identity: &Identity,
    token_ids: &[u32],
    page_idx: u32,
    layer_idx: u32,
) -> Vec<u8> {
    let before = before(identity, token_ids, page_idx);
    let page = &token_ids[page_idx as usize * PAGE_TOKENS..][..PAGE_TOKENS];
    let head = RecordHeader {
        format: layout.format(),
        page_idx,
        layer_idx,
        before,
        token_ids: page.try_into().unwrap(),
    };
    let seed = u64::from_le_bytes(*head.chain().0.0.first_chunk().unwrap()) ^ u64::from(layer_idx);
    let mut record = vec![0; layout.record_bytes()];
    let end = layout.payload_end();
    record[RECORD_HEADER_BYTES..end].copy_from_slice(&noise(end - RECORD_HEADER_BYTES, seed));
    seal(&mut record, &head);
    record
}

/// Returns the sealed record of a page in the page format.
pub(crate) fn record(identity: &Identity, token_ids: &[u32], page_idx: u32, layer_idx: u32) -> Vec<u8> {
    record_in(&identity.geometry.layout(), identity, token_ids, page_idx, layer_idx)
}

/// Checks that a file holds the first `n_pages` pages of `token_ids`.
pub(crate) fn assert_pages(file: &PageFile, token_ids: &[u32], n_pages: usize) {
    let mut got = vec![0; file.layout().record_bytes()];
    for page_idx in 0..n_pages as u32 {
        for layer_idx in 0..file.identity().geometry.n_layers {
            file.read(page_idx, layer_idx, &mut got).unwrap();
            let wanted = record(file.identity(), token_ids, page_idx, layer_idx);
            assert!(got == wanted, "page {page_idx} of layer {layer_idx} has other bytes");
        }
    }
}
