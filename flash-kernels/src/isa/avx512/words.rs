//! Words of codes of half a tile: one vector per word, with a lane for each of 16 rows.
//!
//! In strips the words are stored like this; in rows they are transposed, sixteen words of each row at a time.

#![expect(unsafe_code, reason = "loads through pointers: groups are read in the order of chains")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::prefetch::Policy;
use super::transpose::transpose;
use super::{HALVES, LANES};
use crate::activations::LINE_BYTES;
use crate::chains::Link;
use crate::strips::Strips;
use crate::tile::{CodeRows, Layout, TILE};

/// Bytes of a word.
pub(super) const WORD_BYTES: usize = 4;

/// Words of a quarter of a vector: the smallest group.
const QUARTER_WORDS: usize = 4;

/// Rows of half a tile: those of a strip.
const HALF_ROWS: usize = TILE / HALVES;

const _: () =
    assert!(HALF_ROWS == Strips::SIXTEEN_ROWS.rows() && Strips::SIXTEEN_ROWS.step_bytes() == WORD_BYTES);

/// Words transposed at a time: a group of 128 codes of 8 bits, or some smaller ones.
const BUFFER_WORDS: usize = 32;

/// Transposed words of half a tile.
#[repr(C, align(64))]
pub(super) struct WordBuffer {
    lines: [[u8; LINE_BYTES]; BUFFER_WORDS],
    /// The words: `start..end`.
    start: usize,
    end: usize,
}

impl WordBuffer {
    const EMPTY: Self = Self { lines: [[0; LINE_BYTES]; BUFFER_WORDS], start: 0, end: 0 };
}

/// The words of half a tile.
#[derive(Clone, Copy)]
pub(in crate::isa) struct HalfWords<'a> {
    bytes: &'a [u8],
    layout: Layout,
    row_words: usize,
    group_words: usize,
}

impl<'a> HalfWords<'a> {
    pub(in crate::isa) fn new(rows: CodeRows<'a>, half: usize) -> Self {
        let row_bytes = rows.rows.row_bytes();
        let bytes = &rows.rows.bytes()[half * HALF_ROWS * row_bytes..][..HALF_ROWS * row_bytes];
        let group_words = rows.group / rows.bits.word_codes();
        assert!(group_words.is_power_of_two() && group_words >= QUARTER_WORDS);
        Self { bytes, layout: rows.layout, row_words: row_bytes / WORD_BYTES, group_words }
    }

    /// Returns how far ahead of its lines to prefetch. Transposed words are prefetched when they are read.
    pub(super) fn ahead_bytes<A: Policy>(&self) -> usize {
        match self.layout {
            Layout::Rows => 0,
            Layout::Strips(_) => A::STRIPS_BYTES,
        }
    }

    /// Returns the lines of some words: those in memory, or transposed ones in `buffer`, which is created when it is
    /// first used, and must not be used with another half of a tile.
    ///
    /// # Panics
    /// If the rows do not have the words, or they exceed the buffer.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn lines<'b>(
        &'b self,
        words: Range<usize>,
        buffer: &'b mut Option<WordBuffer>,
    ) -> &'b [[u8; LINE_BYTES]] {
        match self.layout {
            Layout::Strips(_) => &self.bytes.as_chunks().0[words],
            Layout::Rows => {
                let buffer = buffer.get_or_insert(WordBuffer::EMPTY);
                if words.start < buffer.start || words.end > buffer.end {
                    self.fill(buffer, words.clone());
                }
                &buffer.lines[words.start - buffer.start..][..words.len()]
            }
        }
    }

    /// Transposes words and those that follow them into the buffer.
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    fn fill(&self, buffer: &mut WordBuffer, words: Range<usize>) {
        let end = self.row_words.min(words.start + BUFFER_WORDS);
        assert!(words.end <= end);
        let chunks = buffer.lines.as_chunks_mut::<LANES>().0;
        for (idx, start) in (words.start..end).step_by(LANES).enumerate() {
            let mut quarters = [0; 4];
            for (quarter, word) in quarters.iter_mut().enumerate() {
                *word = (start + QUARTER_WORDS * quarter).min(end - QUARTER_WORDS);
            }
            let block = self.transposed(quarters);
            for word in 0..LANES {
                // SAFETY: the store writes exactly this array of 64 bytes.
                unsafe { _mm512_storeu_si512(chunks[idx][word].as_mut_ptr().cast(), block[word]) };
            }
        }
        (buffer.start, buffer.end) = (words.start, end);
    }

    /// Returns the words of the groups of `links`, in their order, from word `LANES * block_idx` on; the last group is
    /// repeated to fill the block.
    ///
    /// # Panics
    /// If the rows do not have the groups, or there are none.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::isa) fn block(&self, links: &[Link], block_idx: usize) -> [__m512i; LANES] {
        let mut quarters = [0; 4];
        for (quarter, start) in quarters.iter_mut().enumerate() {
            let word = LANES * block_idx + QUARTER_WORDS * quarter;
            // Shifts instead of divisions: groups are powers of two.
            let link = links[(word >> self.group_words.trailing_zeros()).min(links.len() - 1)];
            *start = link.group_idx * self.group_words + (word & (self.group_words - 1));
        }
        match self.layout {
            Layout::Rows => self.transposed(quarters),
            Layout::Strips(_) => {
                let lines: &[[u8; LINE_BYTES]] = self.bytes.as_chunks().0;
                let mut words = [_mm512_setzero_si512(); LANES];
                for (words, start) in words.as_chunks_mut::<QUARTER_WORDS>().0.iter_mut().zip(quarters) {
                    for (word, line) in words.iter_mut().zip(&lines[start..start + QUARTER_WORDS]) {
                        // Prefetch the same place in the next tile, which may not exist: a prefetch cannot fault.
                        _mm_prefetch::<_MM_HINT_T0>(
                            line.as_ptr().wrapping_add(HALVES * self.bytes.len()).cast(),
                        );
                        // SAFETY: the load reads exactly this array of 64 bytes.
                        *word = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
                    }
                }
                words
            }
        }
    }

    /// Returns the words of rows, four from each of `quarters` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transposed(&self, quarters: [usize; 4]) -> [__m512i; LANES] {
        for start in quarters {
            assert!(start + QUARTER_WORDS <= self.row_words);
        }
        let row_bytes = self.row_words * WORD_BYTES;
        let is_line = quarters[3] == quarters[0] + 3 * QUARTER_WORDS;
        let mut lines = [_mm512_setzero_si512(); LANES];
        for (row, line) in lines.iter_mut().enumerate() {
            let start = self.bytes.as_ptr().wrapping_add(row * row_bytes);
            let mut starts = [start; 4];
            for (start, word) in starts.iter_mut().zip(quarters) {
                *start = start.wrapping_add(word * WORD_BYTES);
            }
            // Prefetch the same place in the next tile, which may not exist: a prefetch cannot fault.
            _mm_prefetch::<_MM_HINT_T0>(starts[0].wrapping_add(HALVES * self.bytes.len()).cast());
            // SAFETY: each row has these words, by the assertion.
            *line =
                unsafe { if is_line { _mm512_loadu_si512(starts[0].cast()) } else { load_quarters(starts) } };
        }
        transpose(&lines)
    }
}

/// Loads a vector from the addresses of its quarters.
///
/// # Safety
/// Each must be valid for reads of 16 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_quarters(quarters: [*const u8; 4]) -> __m512i {
    // SAFETY: guaranteed by the caller.
    let quarters = unsafe {
        [
            _mm_loadu_si128(quarters[0].cast()),
            _mm_loadu_si128(quarters[1].cast()),
            _mm_loadu_si128(quarters[2].cast()),
            _mm_loadu_si128(quarters[3].cast()),
        ]
    };
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarters[0]), quarters[1]);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarters[2]), quarters[3]);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}
