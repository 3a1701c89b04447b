//! Byte ranges of a file.

use std::fmt;

/// Half-open range `[start, end)` of bytes in a file.
///
/// `start ≤ end` is expected everywhere; a span with `end < start` counts as empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset past the last byte.
    pub end: u64,
}

impl Span {
    /// Creates the span `[start, end)`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// Returns the length in bytes.
    pub const fn len_bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Returns whether the span has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Returns whether the spans overlap or are adjacent, so that their union is one span.
    pub const fn touches(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Returns whether every byte of `other` is in this span.
    pub const fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Returns the smallest span that contains both.
    pub fn hull(&self, other: &Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Returns the bytes in both spans; empty if they are disjoint.
    pub fn intersection(&self, other: &Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// Widens the span to multiples of `align_bytes`.
    ///
    /// # Panics
    /// If `align_bytes` is not a power of two, or the end would pass `u64::MAX`.
    pub const fn align_outward(&self, align_bytes: u64) -> Self {
        assert!(align_bytes.is_power_of_two(), "an alignment is a power of two");
        let mask = align_bytes - 1;
        let Some(padded) = self.end.checked_add(mask) else { panic!("a span ends past u64::MAX") };
        Self { start: self.start & !mask, end: padded & !mask }
    }

    /// Splits into consecutive spans of `chunk_bytes`, the last one shorter if necessary.
    ///
    /// # Panics
    /// If `chunk_bytes` is 0.
    pub fn chunks(self, chunk_bytes: u64) -> impl Iterator<Item = Span> {
        assert!(chunk_bytes > 0, "a chunk has at least one byte");
        let mut start = self.start;
        std::iter::from_fn(move || {
            if start >= self.end {
                return None;
            }
            let chunk = Span { start, end: start.saturating_add(chunk_bytes).min(self.end) };
            start = chunk.end;
            Some(chunk)
        })
    }

    /// Splits into the fewest spans of at most `chunk_bytes`, all of the same length, a multiple of `align`.
    ///
    /// The last one may be shorter, by less than `align` times the number of spans.
    ///
    /// # Panics
    /// If `chunk_bytes` is not a multiple of `align`, or is 0.
    pub fn even_chunks(self, chunk_bytes: u64, align: u64) -> impl Iterator<Item = Span> {
        assert!(chunk_bytes > 0 && chunk_bytes.is_multiple_of(align), "a chunk is a whole number of blocks");
        let n_chunks = self.len_bytes().div_ceil(chunk_bytes).max(1);
        self.chunks(self.len_bytes().div_ceil(n_chunks).next_multiple_of(align).max(align))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn end_to_end_spans_touch_and_a_gap_of_one_does_not() {
        let a = Span::new(10, 20);
        assert!(a.touches(&Span::new(20, 30)));
        assert!(a.touches(&Span::new(0, 10)));
        assert!(a.touches(&Span::new(12, 13)));
        assert!(!a.touches(&Span::new(21, 30)));
        assert!(!a.touches(&Span::new(0, 9)));
    }

    #[test]
    fn intersection_of_spans_apart_is_empty() {
        assert!(Span::new(0, 4).intersection(&Span::new(8, 12)).is_empty());
        assert_eq!(Span::new(0, 9).intersection(&Span::new(8, 12)), Span::new(8, 9));
    }

    #[test]
    fn aligned_span_is_unchanged() {
        assert_eq!(Span::new(4096, 8192).align_outward(4096), Span::new(4096, 8192));
        assert_eq!(Span::new(5, 5).align_outward(4), Span::new(4, 8));
    }

    proptest! {
        #[test]
        fn alignment_grows_by_less_than_one_block_a_side(start in 0u64..1 << 40, len in 0u64..1 << 30, shift in 0u32..16) {
            let (span, align) = (Span::new(start, start + len), 1u64 << shift);
            let wide = span.align_outward(align);
            prop_assert!(wide.contains(&span));
            prop_assert!(wide.start.is_multiple_of(align) && wide.end.is_multiple_of(align));
            prop_assert!(span.start - wide.start < align && wide.end - span.end < align);
        }

        #[test]
        fn chunks_tile_the_span(start in 0u64..1 << 40, len in 0u64..10_000, chunk in 1u64..3_000) {
            let span = Span::new(start, start + len);
            let mut at = span.start;
            for piece in span.chunks(chunk) {
                prop_assert_eq!(piece.start, at);
                prop_assert!(!piece.is_empty() && piece.len_bytes() <= chunk);
                at = piece.end;
            }
            prop_assert_eq!(at, span.end);
        }

        #[test]
        fn even_chunks_tile_the_span_and_are_few_and_equal(
            start in 0u64..1 << 40,
            len in 0u64..100_000,
            blocks in 1u64..40,
            shift in 0u32..13,
        ) {
            let (span, align) = (Span::new(start, start + len), 1 << shift);
            let chunk = blocks * align;
            let chunks: Vec<Span> = span.even_chunks(chunk, align).collect();
            let lens: Vec<u64> = chunks.iter().map(Span::len_bytes).collect();
            prop_assert_eq!(lens.iter().sum::<u64>(), len);
            prop_assert!(chunks.first().is_none_or(|first| first.start == start));
            prop_assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(chunks.len() as u64 <= len.div_ceil(chunk));
            prop_assert!(lens.iter().all(|len| *len <= chunk));
            if let [rest @ .., last] = lens.as_slice() {
                prop_assert!(rest.iter().all(|len| *len == lens[0] && len % align == 0));
                prop_assert!(lens[0] - last < align * lens.len() as u64);
            }
        }
    }
}
