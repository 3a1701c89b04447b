//! Byte ranges of tokens in pages and in rows.

use std::ops::Range;

use flash_kv::{PAGE_TOKENS, PageLayout};

/// Tokens of one head in one page, as byte ranges of its record and of rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub page_idx: usize,
    /// Bytes of the record.
    pub record: Range<usize>,
    /// Bytes of the rows.
    pub rows: Range<usize>,
}

/// Returns the pieces of `tokens`: keys, then values if they are stored. Rows are `[parts, kv_heads, tokens.len(),
/// head_dim]` in the format of the records.
pub(super) fn pieces(layout: &PageLayout, tokens: Range<usize>) -> Vec<Piece> {
    let row_bytes = layout.row_bytes();
    let mut pieces = Vec::new();
    for (part_idx, half) in layout.stored().enumerate() {
        for head in 0..layout.kv_heads() {
            let mut token = tokens.start;
            while token < tokens.end {
                let page_idx = token / PAGE_TOKENS;
                let end = tokens.end.min((page_idx + 1) * PAGE_TOKENS);
                let len = (end - token) * row_bytes;
                let in_record = half.codes.start + (head * PAGE_TOKENS + token % PAGE_TOKENS) * row_bytes;
                let row = (part_idx * layout.kv_heads() + head) * tokens.len() + token - tokens.start;
                let in_rows = row * row_bytes;
                pieces.push(Piece {
                    page_idx,
                    record: in_record..in_record + len,
                    rows: in_rows..in_rows + len,
                });
                token = end;
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use flash_kv::{KvParts, PageFormat};

    use super::*;

    #[test]
    fn pieces_cover_rows_once_and_in_order() {
        let tokens = || [0..0, 0..1, 100..300, 128..256, 255..257].into_iter();
        let both = tokens().map(|tokens| (KvParts::KeysAndValues, tokens));
        for (parts, tokens) in both.chain(tokens().map(|tokens| (KvParts::KeysOnly, tokens))) {
            let layout = PageLayout::of(3, 16, parts, PageFormat::F16);
            let pieces = pieces(&layout, tokens.clone());
            let mut end = 0;
            for piece in &pieces {
                assert_eq!((piece.rows.start, piece.rows.len()), (end, piece.record.len()));
                end = piece.rows.end;
            }
            assert_eq!(end, parts.count() * 3 * tokens.len() * 16 * 2, "{tokens:?}");
        }
    }
}
