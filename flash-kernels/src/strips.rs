//! Strips: interleaved rows of codes, so that products stream them from memory in order.
//!
//! A product reads some bytes of each of a few rows, then the next bytes of each. In row-major order those are several
//! short streams for the hardware prefetchers; in a strip it is one long stream. A strip is as long as its rows
//! together, so a matrix is rearranged in place.

use std::ops::Range;

use crate::float::FloatType;

/// A layout of interleaved rows: the first bytes of each row of a strip, then the next bytes of each, and so on.
///
/// Kernels differ in how many rows and bytes they multiply at a time; [`Pool::strips`](crate::Pool::strips) returns the
/// layout that is fastest for a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Strips {
    rows: usize,
    step_bytes: usize,
    has_scales: bool,
}

impl Strips {
    /// Four rows, of which a kernel multiplies four cache lines each.
    pub(crate) const FOUR_ROWS: Self = Self { rows: 4, step_bytes: 256, has_scales: false };

    /// Sixteen rows, of which a kernel multiplies a word each: the rows are lanes of its vectors.
    pub(crate) const SIXTEEN_ROWS: Self = Self { rows: 16, step_bytes: 4, has_scales: true };

    /// All layouts that some kernel reads.
    pub const ALL: [Self; 2] = [Self::FOUR_ROWS, Self::SIXTEEN_ROWS];

    /// Returns the number of rows per strip.
    pub const fn rows(self) -> usize {
        self.rows
    }

    /// Returns whether scales and biases are interleaved, too, by [`interleave_floats`](Self::interleave_floats).
    pub const fn has_scales(self) -> bool {
        self.has_scales
    }

    /// Returns the layout of numbers of `float` that are interleaved one by one.
    pub(crate) const fn of_floats(self, float: FloatType) -> Self {
        Self { step_bytes: float.size_bytes(), ..self }
    }

    /// Returns the bytes of a row that are contiguous in a strip.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn step_bytes(self) -> usize {
        self.step_bytes
    }

    /// Rearranges row-major `codes`, with rows of `row_bytes`, in place for
    /// [`Matrix::in_strips`](crate::Matrix::in_strips). The last step of a row may be shorter than the others.
    ///
    /// # Panics
    /// If `codes` is not whole strips.
    pub fn interleave(self, codes: &mut [u8], row_bytes: usize) {
        self.rearrange(codes, row_bytes, |strip, rows| {
            self.steps(row_bytes)
                .for_each(|(in_strip, in_rows)| strip[in_strip].copy_from_slice(&rows[in_rows]));
        });
    }

    /// Rearranges row-major scales or biases, with rows of `row_bytes`, like the codes, but number by number.
    ///
    /// # Panics
    /// If `floats` is not whole strips.
    pub fn interleave_floats(self, float: FloatType, floats: &mut [u8], row_bytes: usize) {
        self.of_floats(float).interleave(floats, row_bytes);
    }

    /// Restores row-major order: the inverse of [`interleave`](Self::interleave).
    pub(crate) fn restore(self, codes: &mut [u8], row_bytes: usize) {
        self.rearrange(codes, row_bytes, |rows, strip| {
            self.steps(row_bytes)
                .for_each(|(in_strip, in_rows)| rows[in_rows].copy_from_slice(&strip[in_strip]));
        });
    }

    /// Returns the offset in a strip of byte `byte_idx` of row `row_idx`.
    #[inline]
    pub(crate) fn offset(self, row_idx: usize, byte_idx: usize, row_bytes: usize) -> usize {
        let start = byte_idx / self.step_bytes * self.step_bytes;
        self.rows * start + row_idx * self.step_bytes.min(row_bytes - start) + (byte_idx - start)
    }

    /// Calls `fill` with each strip and a copy of its previous contents.
    fn rearrange(self, codes: &mut [u8], row_bytes: usize, fill: impl Fn(&mut [u8], &[u8])) {
        let strip_bytes = self.rows * row_bytes;
        assert!(codes.len().is_multiple_of(strip_bytes), "{} B, strips of {strip_bytes} B", codes.len());
        let mut before = Vec::with_capacity(strip_bytes);
        for strip in codes.chunks_exact_mut(strip_bytes.max(1)) {
            before.clear();
            before.extend_from_slice(strip);
            fill(strip, &before);
        }
    }

    /// Returns the ranges of each contiguous piece in a strip and in row-major order.
    fn steps(self, row_bytes: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..row_bytes).step_by(self.step_bytes).flat_map(move |start| {
            let step_bytes = self.step_bytes.min(row_bytes - start);
            (0..self.rows).map(move |row_idx| {
                let (in_strip, in_rows) =
                    (self.offset(row_idx, start, row_bytes), row_idx * row_bytes + start);
                (in_strip..in_strip + step_bytes, in_rows..in_rows + step_bytes)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_row_is_at_its_place_and_comes_back() {
        for strips in Strips::ALL {
            for row_bytes in [0, 4, 252, 256, 260, 512, 1000] {
                let rows: Vec<u8> = (0..3 * strips.rows * row_bytes).map(|i| (i * 31 % 251) as u8).collect();
                let mut codes = rows.clone();
                strips.interleave(&mut codes, row_bytes);
                for (row_idx, row) in rows.chunks_exact(row_bytes.max(1)).enumerate() {
                    let strip = &codes[row_idx / strips.rows * strips.rows * row_bytes..];
                    for (byte_idx, byte) in row.iter().enumerate() {
                        assert_eq!(strip[strips.offset(row_idx % strips.rows, byte_idx, row_bytes)], *byte);
                    }
                }
                strips.restore(&mut codes, row_bytes);
                assert_eq!(codes, rows);
            }
        }
    }

    #[test]
    #[should_panic(expected = "strips of 16 B")]
    fn rows_that_are_no_strip_are_a_bug() {
        Strips::FOUR_ROWS.interleave(&mut [0; 24], 4);
    }
}
