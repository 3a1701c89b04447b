//! Conversion between a contiguous cache and the rows and pages of a session.

use std::ops::Range;

use flash_kv::PageLayout;
use mlx_rs::Array;

use super::LayerKv;
use super::rows::pieces;
use crate::ModelError;

impl LayerKv {
    /// Copies tokens to rows `[parts, kv_heads, tokens, head_dim]`, f32; the parts are keys, and values if they are
    /// stored.
    pub(super) fn copy_rows(
        &self,
        layout: &PageLayout,
        tokens: Range<usize>,
        rows: &mut [u8],
    ) -> Result<(), ModelError> {
        let mut copy = |part_idx: usize, all: &[u8]| {
            for (in_buffer, in_rows) in head_ranges(layout, part_idx, &tokens, all.len()) {
                rows[in_rows].copy_from_slice(&all[in_buffer]);
            }
        };
        match self {
            Self::Shared(buffers) => {
                let buffers = buffers.lock();
                for (part_idx, all) in [&buffers.keys].into_iter().chain(&buffers.values).enumerate() {
                    copy(part_idx, all.as_slice());
                }
            }
            Self::Arrays { keys, values } => {
                let parts = || [&*keys].into_iter().chain(values);
                mlx_rs::transforms::eval(parts())?;
                for (part_idx, all) in parts().enumerate() {
                    copy(part_idx, bytemuck::cast_slice(all.as_slice::<f32>()));
                }
            }
            _ => unreachable!("the cache of the layer is contiguous"),
        }
        Ok(())
    }

    /// Copies tokens from rows `[parts, kv_heads, tokens, head_dim]`, f32, to the cache.
    pub(super) fn fill_rows(
        &mut self,
        layout: &PageLayout,
        tokens: Range<usize>,
        rows: &[u8],
    ) -> Result<(), ModelError> {
        let n_halves = layout.parts().count();
        match self {
            Self::Shared(buffers) => {
                let buffers = &mut *buffers.lock();
                let parts = [&mut buffers.keys].into_iter().chain(&mut buffers.values);
                for (part_idx, all) in parts.enumerate() {
                    let all = all.as_mut_slice();
                    for (in_buffer, in_rows) in head_ranges(layout, part_idx, &tokens, all.len()) {
                        all[in_buffer].copy_from_slice(&rows[in_rows]);
                    }
                }
            }
            Self::Arrays { .. } if tokens.is_empty() => {}
            Self::Arrays { .. } => {
                let shape = [1, layout.kv_heads() as i32, tokens.len() as i32, layout.head_dim() as i32];
                let array = |half: &[u8]| {
                    let numbers = half.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                    Array::from_slice(&numbers.collect::<Vec<_>>(), &shape)
                };
                let mut parts = rows.chunks_exact(rows.len() / n_halves).map(array);
                let keys = parts.next().expect("keys are always kept");
                let (keys, values) = self.append(&keys, parts.next().as_ref(), tokens.start)?;
                mlx_rs::transforms::eval([&keys].into_iter().chain(&values))?;
            }
            _ => unreachable!("the cache of the layer is contiguous"),
        }
        Ok(())
    }
}

/// Returns the byte ranges of each head's tokens in a buffer of keys or values, `[kv_heads, capacity, head_dim]`, and
/// in rows.
fn head_ranges(
    layout: &PageLayout,
    part_idx: usize,
    tokens: &Range<usize>,
    buffer_bytes: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (kv_heads, row_bytes) = (layout.kv_heads(), layout.row_bytes());
    let (head_bytes, len, start) =
        (buffer_bytes / kv_heads, tokens.len() * row_bytes, tokens.start * row_bytes);
    (0..kv_heads).map(move |head| {
        let in_buffer = head * head_bytes + start;
        let in_rows = (part_idx * kv_heads + head) * len;
        (in_buffer..in_buffer + len, in_rows..in_rows + len)
    })
}

/// Copies tokens from the record of their page to rows.
pub(super) fn copy_page_to_rows(layout: &PageLayout, tokens: Range<usize>, record: &[u8], rows: &mut [u8]) {
    for piece in pieces(layout, tokens) {
        rows[piece.rows].copy_from_slice(&record[piece.record]);
    }
}

/// Copies tokens from rows to the record of their page.
pub(super) fn copy_rows_to_page(layout: &PageLayout, tokens: Range<usize>, rows: &[u8], record: &mut [u8]) {
    for piece in pieces(layout, tokens) {
        record[piece.record].copy_from_slice(&rows[piece.rows]);
    }
}
