//! Strips: interleaved rows of codes, so that products stream them from memory in order.
//!
//! A product reads some bytes of each of a few rows, then the next bytes of each. In row-major order those are several
//! short streams for the hardware prefetchers; in a strip it is one long stream. A strip is as long as its rows
//! together, so a matrix is rearranged in place.

use std::ops::Range;

/// Rows per strip.
pub const STRIP_ROWS: usize = 4;

/// Bytes of a row that are contiguous in a strip: the four cache lines that a kernel multiplies at a time.
pub(crate) const STEP_BYTES: usize = 256;

/// Rearranges codes in place for [`Matrix::in_strips`](crate::Matrix::in_strips): each [`STRIP_ROWS`] rows of
/// `row_bytes` are interleaved, the first 256 bytes of each row, then the next 256 of each, and so on; the last piece
/// may be shorter.
///
/// # Panics
/// If `codes` is not whole strips.
pub fn into_strips(codes: &mut [u8], row_bytes: usize) {
    rearrange(codes, row_bytes, |strip, rows| {
        steps(row_bytes).for_each(|(in_strip, in_rows)| strip[in_strip].copy_from_slice(&rows[in_rows]));
    });
}

/// Restores row-major order: the inverse of [`into_strips`].
pub(crate) fn into_rows(codes: &mut [u8], row_bytes: usize) {
    rearrange(codes, row_bytes, |rows, strip| {
        steps(row_bytes).for_each(|(in_strip, in_rows)| rows[in_rows].copy_from_slice(&strip[in_strip]));
    });
}

/// Returns the offset in a strip of byte `byte_idx` of row `row_idx`.
#[inline]
pub(crate) fn strip_offset(row_idx: usize, byte_idx: usize, row_bytes: usize) -> usize {
    let start = byte_idx / STEP_BYTES * STEP_BYTES;
    STRIP_ROWS * start + row_idx * STEP_BYTES.min(row_bytes - start) + (byte_idx - start)
}

/// Calls `fill` with each strip and a copy of its previous contents.
fn rearrange(codes: &mut [u8], row_bytes: usize, fill: impl Fn(&mut [u8], &[u8])) {
    let strip_bytes = STRIP_ROWS * row_bytes;
    assert!(codes.len().is_multiple_of(strip_bytes), "{} B, strips of {strip_bytes} B", codes.len());
    let mut before = Vec::with_capacity(strip_bytes);
    for strip in codes.chunks_exact_mut(strip_bytes.max(1)) {
        before.clear();
        before.extend_from_slice(strip);
        fill(strip, &before);
    }
}

/// Returns the ranges of each contiguous piece in a strip and in row-major order.
fn steps(row_bytes: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    (0..row_bytes).step_by(STEP_BYTES).flat_map(move |start| {
        let step_bytes = STEP_BYTES.min(row_bytes - start);
        (0..STRIP_ROWS).map(move |row_idx| {
            let (in_strip, in_rows) = (strip_offset(row_idx, start, row_bytes), row_idx * row_bytes + start);
            (in_strip..in_strip + step_bytes, in_rows..in_rows + step_bytes)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_row_is_at_its_place_and_comes_back() {
        for row_bytes in [0, 4, 252, 256, 260, 512, 1000] {
            let rows: Vec<u8> = (0..3 * STRIP_ROWS * row_bytes).map(|i| (i * 31 % 251) as u8).collect();
            let mut codes = rows.clone();
            into_strips(&mut codes, row_bytes);
            for (row_idx, row) in rows.chunks_exact(row_bytes.max(1)).enumerate() {
                let strip = &codes[row_idx / STRIP_ROWS * STRIP_ROWS * row_bytes..];
                for (byte_idx, byte) in row.iter().enumerate() {
                    assert_eq!(strip[strip_offset(row_idx % STRIP_ROWS, byte_idx, row_bytes)], *byte);
                }
            }
            into_rows(&mut codes, row_bytes);
            assert_eq!(codes, rows);
        }
    }

    #[test]
    #[should_panic(expected = "strips of 16 B")]
    fn rows_that_are_no_strip_are_a_bug() {
        into_strips(&mut [0; 24], 4);
    }
}
