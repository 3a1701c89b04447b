//! Transposed words of codes: one vector per word, with a lane for each row of half a tile.

#![expect(unsafe_code, reason = "loads through pointers: groups are read in the order of chains")]

use std::arch::x86_64::*;

use super::LANES;
use super::codes::{FOUR_BYTES, ROWS};
use super::transpose::transpose;
use crate::chains::Link;
use crate::tile::{CodeRows, Layout, TILE};

/// Bytes of a quarter of a vector: the smallest group.
const QUARTER_BYTES: usize = 16;

/// The words of the groups of `links` in the rows of half a tile.
pub(in crate::isa) struct HalfWords<'a> {
    links: &'a [Link],
    start: *const u8,
    layout: Layout,
    row_bytes: usize,
    group_bytes: usize,
}

/// Position of some bytes in four rows, interleaved in a strip or not.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Offset in the first row.
    first: usize,
    /// Distance between two rows.
    row_bytes: usize,
}

impl<'a> HalfWords<'a> {
    /// Wraps the groups of `links`, at least one, which the rows must have.
    pub(in crate::isa) fn new(rows: CodeRows<'a>, links: &'a [Link], half: usize) -> Self {
        let (group_bytes, row_bytes) = (rows.bits.bytes(rows.group), rows.rows.row_bytes());
        assert!(links.iter().all(|link| (link.group_idx + 1) * group_bytes <= row_bytes));
        let start = rows.rows.bytes()[half * LANES * row_bytes..][..LANES * row_bytes].as_ptr();
        // A group does not cross the blocks of a strip.
        assert!(group_bytes.is_power_of_two() && FOUR_BYTES.is_multiple_of(group_bytes));
        Self { links, start, layout: rows.layout, row_bytes, group_bytes }
    }

    /// Returns the words from `LANES * block_idx` on, in the order of the links; the last group is repeated to fill the
    /// block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn block(&self, block_idx: usize) -> [__m512i; LANES] {
        let Self { links, start, group_bytes, .. } = *self;
        let mut quarters = [Place::default(); 4];
        for (quarter, place) in quarters.iter_mut().enumerate() {
            let byte = (4 * block_idx + quarter) * QUARTER_BYTES;
            // A shift instead of a division: groups are powers of two.
            let link = links[(byte >> group_bytes.trailing_zeros()).min(links.len() - 1)];
            *place = self.place(link.group_idx * group_bytes + (byte & (group_bytes - 1)));
        }
        let mut lines = [_mm512_setzero_si512(); LANES];
        for (four_idx, lines) in lines.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            let start = start.wrapping_add(four_idx * ROWS * self.row_bytes);
            for (row, line) in lines.iter_mut().enumerate() {
                let mut starts = [start; 4];
                for (start, Place { first, row_bytes }) in starts.iter_mut().zip(quarters) {
                    *start = start.wrapping_add(first + row * row_bytes);
                }
                // Prefetch the same place in the next tile, which may not exist: a prefetch cannot fault.
                _mm_prefetch::<_MM_HINT_T0>(starts[0].wrapping_add(TILE * self.row_bytes).cast());
                // SAFETY: each row has these groups, by the assertions in `new`.
                *line = unsafe { load_quarters(starts, group_bytes) };
            }
        }
        transpose(&lines)
    }

    /// Returns the position of the bytes from `byte` on of each row.
    #[inline]
    fn place(&self, byte: usize) -> Place {
        let step_start = byte / FOUR_BYTES * FOUR_BYTES;
        match self.layout {
            Layout::Rows => Place { first: byte, row_bytes: self.row_bytes },
            Layout::Strips(strips) => Place {
                first: strips.offset(0, byte, self.row_bytes),
                row_bytes: FOUR_BYTES.min(self.row_bytes - step_start),
            },
        }
    }
}

/// Loads a vector from the addresses of its quarters; the quarters of one group are contiguous.
///
/// # Safety
/// The bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_quarters([a, b, c, d]: [*const u8; 4], group_bytes: usize) -> __m512i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match group_bytes {
            16 => {
                let quarters = [a, b, c, d].map(|quarter| _mm_loadu_si128(quarter.cast()));
                let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarters[0]), quarters[1]);
                let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarters[2]), quarters[3]);
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            }
            32 => {
                let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
                _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(c.cast()))
            }
            _ => _mm512_loadu_si512(a.cast()),
        }
    }
}
