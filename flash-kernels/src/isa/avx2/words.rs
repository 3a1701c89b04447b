//! Words of codes of half a tile: one line per word, with a 32-bit lane for each of 16 rows.
//!
//! In strips the words are stored like this; in rows they are transposed, some words of each row at a time.

#![expect(
    unsafe_code,
    reason = "loads through pointers: bounds checks of 8 rows at a time would be too slow"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::transpose;
use super::vectors::{VECTOR_BYTES, VECTORS};
use super::{LANES, OCTETS};
use crate::activations::LINE_BYTES;
use crate::strips::Strips;
use crate::tile::{CodeRows, Layout, TILE};

/// Parts of a tile whose words fill a line.
pub(super) const HALVES: usize = OCTETS / VECTORS;

/// Rows of half a tile: those of a strip.
pub(super) const HALF_ROWS: usize = TILE / HALVES;

const _: () =
    assert!(HALF_ROWS == Strips::SIXTEEN_ROWS.rows() && Strips::SIXTEEN_ROWS.step_bytes() == WORD_BYTES);

/// Maximum number of words transposed at a time: a group of 128 codes of 8 bits.
pub(super) const WORDS_MAX: usize = 32;

/// Bytes of a word.
const WORD_BYTES: usize = 4;

/// Space for transposed words.
#[repr(C, align(64))]
pub(super) struct WordBuffer([[u8; LINE_BYTES]; WORDS_MAX]);

impl WordBuffer {
    const ZERO: Self = Self([[0; LINE_BYTES]; WORDS_MAX]);
}

/// The words of half a tile.
#[derive(Clone, Copy)]
pub(super) struct HalfWords<'a> {
    bytes: &'a [u8],
    layout: Layout,
    row_bytes: usize,
}

impl<'a> HalfWords<'a> {
    pub(super) fn new(rows: CodeRows<'a>, half: usize) -> Self {
        let row_bytes = rows.rows.row_bytes();
        let bytes = &rows.rows.bytes()[half * HALF_ROWS * row_bytes..][..HALF_ROWS * row_bytes];
        Self { bytes, layout: rows.layout, row_bytes }
    }

    /// Returns the lines of some words: those in memory, or transposed ones in `buffer`, which is
    /// created when it is first used.
    ///
    /// # Panics
    /// If the rows do not have the words, or their number is not a multiple of 4 or exceeds that of the buffer.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn lines<'b>(
        &'b self,
        words: Range<usize>,
        buffer: &'b mut Option<WordBuffer>,
    ) -> &'b [[u8; LINE_BYTES]] {
        match self.layout {
            Layout::Strips(_) => &self.bytes.as_chunks().0[words],
            Layout::Rows => {
                let buffer = buffer.get_or_insert(WordBuffer::ZERO);
                self.transpose(words.clone(), buffer);
                &buffer.0[..words.len()]
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose(&self, words: Range<usize>, WordBuffer(lines): &mut WordBuffer) {
        assert!(words.end * WORD_BYTES <= self.row_bytes && words.len().is_multiple_of(4));
        for octet in 0..VECTORS {
            let start = self.bytes[octet * LANES * self.row_bytes..].as_ptr();
            for (block, lines) in words.clone().step_by(LANES).zip(lines[..words.len()].chunks_mut(LANES)) {
                let start = start.wrapping_add(block * WORD_BYTES);
                let mut rows = [_mm256_setzero_si256(); LANES];
                for (row_idx, row) in rows.iter_mut().enumerate() {
                    let start = start.wrapping_add(row_idx * self.row_bytes);
                    // SAFETY: each row has the words of these lines, by the assertion: 8 or, at the end, 4.
                    *row = unsafe {
                        if lines.len() == LANES {
                            _mm256_loadu_si256(start.cast())
                        } else {
                            _mm256_zextsi128_si256(_mm_loadu_si128(start.cast()))
                        }
                    };
                }
                for (line, words) in lines.iter_mut().zip(transpose(&rows)) {
                    let to = &mut line.as_chunks_mut::<VECTOR_BYTES>().0[octet];
                    // SAFETY: the store writes exactly this half of a line.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) };
                }
            }
        }
    }
}
