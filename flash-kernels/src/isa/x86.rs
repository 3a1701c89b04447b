//! Helpers of the AVX2 and AVX-512 kernels.

mod half_floats;

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

pub(super) use half_floats::HalfFloats;

use crate::activations::LINE_BYTES;
use crate::tile::{FloatRows, TILE};

/// Prefetches the line at `address`. There may be nothing there, but a prefetch cannot fault.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn prefetch_line(address: *const u8) {
    _mm_prefetch::<_MM_HINT_T0>(address.cast());
}

/// Prefetches the bytes of the rows `after`, as many as the rows before them in their tile or beyond it, that correspond
/// to `columns` of the rows before, in address order.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn prefetch_rows(rows: FloatRows<'_>, after: Range<usize>, columns: Range<usize>) {
    let column_bytes = after.len() * rows.float.size_bytes();
    let start = after.start * rows.rows.row_bytes() + columns.start * column_bytes;
    for offset in (start..start + columns.len() * column_bytes).step_by(LINE_BYTES) {
        // There may be nothing beyond the last tile, but a prefetch cannot fault.
        _mm_prefetch::<_MM_HINT_T1>(rows.rows.bytes().as_ptr().wrapping_add(offset).cast());
    }
}

/// Prefetches the bytes of the next tile that correspond to `columns` of this one.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn prefetch_next_tile(rows: FloatRows<'_>, columns: Range<usize>) {
    prefetch_rows(rows, TILE..2 * TILE, columns);
}
