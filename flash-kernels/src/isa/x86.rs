//! Helpers of the AVX2 and AVX-512 kernels.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

use crate::activations::LINE_BYTES;
use crate::tile::{FloatRows, TILE};

/// Prefetches the bytes of the next tile that correspond to `columns` of this one, in address order.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn prefetch_next_tile(rows: FloatRows<'_>, columns: Range<usize>) {
    let column_bytes = TILE * rows.float.size_bytes();
    let start = TILE * rows.rows.row_bytes() + columns.start * column_bytes;
    for offset in (start..start + columns.len() * column_bytes).step_by(LINE_BYTES) {
        // There may be nothing beyond the last tile, but a prefetch cannot fault.
        _mm_prefetch::<_MM_HINT_T1>(rows.rows.bytes().as_ptr().wrapping_add(offset).cast());
    }
}
