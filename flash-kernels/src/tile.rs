//! Operands of the kernels: tiles of weight rows, stored or unpacked, in layouts shared by all instruction sets.

use std::ops::Range;

use crate::float::FloatType;
use crate::strips::Strips;

/// Weight rows per tile: two AVX-512 vectors of `f32`. One activation loaded from cache serves two vectors of weights,
/// and eight rows of activations still fit in the registers beside them.
pub(crate) const TILE: usize = 32;

/// Columns (along `k`) of a panel of codes: 16 KiB, half of the smallest L1 data cache in use.
pub(crate) const PANEL_K: usize = 256;

/// Columns (along `k`) of a panel of floating-point weights, also 16 KiB.
pub(crate) const FLOAT_PANEL_K: usize = 256;

/// Codes per unit, the block in which codes are paired in a fixed pattern: see
/// [`FixedRows`](crate::activations::FixedRows).
pub(crate) const UNIT: usize = 16;

/// One number for each row of a tile.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; TILE]);

/// Strided rows of [`TILE`] numbers each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneRows<'a> {
    numbers: &'a [f32],
    /// Distance between two rows, in numbers.
    stride: usize,
    n: usize,
}

impl<'a> LaneRows<'a> {
    /// Returns [`TILE`] columns from `start` on of all rows of `numbers`, `[n, row_len]`.
    #[inline]
    pub(crate) fn columns(numbers: &'a [f32], row_len: usize, start: usize) -> Self {
        assert!(start + TILE <= row_len, "{TILE} columns from {start} on in rows of {row_len}");
        let n = numbers.len() / row_len;
        Self { numbers: numbers.get(start..).unwrap_or_default(), stride: row_len, n }
    }

    /// Number of rows.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.n
    }

    /// Returns a range of the rows.
    #[inline]
    pub(crate) fn range(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.n, "rows {rows:?} of {}", self.n);
        let numbers = self.numbers.get(rows.start * self.stride..).unwrap_or_default();
        Self { numbers, n: rows.len(), ..*self }
    }

    #[inline]
    pub(crate) fn row(&self, idx: usize) -> &'a [f32; TILE] {
        self.numbers[idx * self.stride..].first_chunk().expect("rows have a tile's columns")
    }
}

impl<'a> From<&'a [Lanes]> for LaneRows<'a> {
    fn from(lanes: &'a [Lanes]) -> Self {
        Self { numbers: bytemuck::cast_slice(lanes), stride: TILE, n: lanes.len() }
    }
}

/// One integer for each row of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct IntLanes(pub(crate) [i32; TILE]);

/// Two codes of each row of a tile.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct CodePairs(pub(crate) [[i16; 2]; TILE]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; TILE]);

    /// Adds `chain` lane by lane.
    pub(crate) fn add(&mut self, chain: &Self) {
        for (sum, value) in self.0.iter_mut().zip(chain.0) {
            *sum += value;
        }
    }
}

/// [`TILE`] contiguous rows of stored bytes, all of one length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    /// Splits the rows `range` of a matrix with rows of `row_bytes` into tiles. If the last tile is partial, it is
    /// copied into `spare` and padded with zeros.
    pub(crate) fn tiles(
        matrix: &'a [u8],
        row_bytes: usize,
        range: Range<usize>,
        spare: &'a mut Vec<u8>,
    ) -> impl Iterator<Item = Self> {
        let rows = &matrix[range.start * row_bytes..range.end * row_bytes];
        let (full, rest) = rows.split_at(range.len() / TILE * TILE * row_bytes);
        spare.clear();
        if !rest.is_empty() {
            spare.extend_from_slice(rest);
            spare.resize(TILE * row_bytes, 0);
        }
        let tiles = full.chunks_exact(TILE * row_bytes).chain(spare.chunks_exact(TILE * row_bytes));
        tiles.map(move |bytes| Self { bytes, row_bytes })
    }

    /// Wraps the bytes of exactly one tile.
    pub(crate) fn whole(bytes: &'a [u8], row_bytes: usize) -> Self {
        assert_eq!(bytes.len(), TILE * row_bytes, "a tile of {row_bytes} B a row");
        Self { bytes, row_bytes }
    }

    /// Returns one row.
    #[inline]
    pub(crate) fn row(&self, row_idx: usize) -> &'a [u8] {
        &self.bytes[row_idx * self.row_bytes..][..self.row_bytes]
    }

    /// Returns the bytes of all rows.
    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes per row.
    #[inline]
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }
}

/// A tile of floating-point rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloatRows<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) layout: Layout,
    pub(crate) float: FloatType,
}

impl<'a> FloatRows<'a> {
    /// Wraps row-major rows.
    pub(crate) fn new(rows: Rows<'a>, float: FloatType) -> Self {
        Self { rows, layout: Layout::Rows, float }
    }

    /// Returns one number.
    pub(crate) fn get(&self, row_idx: usize, column: usize) -> f32 {
        let offset = self.layout.offset(row_idx, column * self.float.size_bytes(), self.rows.row_bytes());
        self.float.get(&self.rows.bytes()[offset..], 0)
    }
}

/// A tile of rows of 4- or 8-bit codes, with one scale per `group` codes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodeRows<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) layout: Layout,
    pub(crate) bits: CodeBits,
    pub(crate) group: usize,
}

/// Memory layout of a matrix of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row-major.
    Rows,
    /// Interleaved rows.
    Strips(Strips),
}

impl Layout {
    /// Returns the offset in a tile of byte `byte_idx` of row `row_idx`.
    fn offset(self, row_idx: usize, byte_idx: usize, row_bytes: usize) -> usize {
        match self {
            Self::Rows => row_idx * row_bytes + byte_idx,
            Self::Strips(strips) => {
                let row_in_strip = row_idx % strips.rows();
                (row_idx - row_in_strip) * row_bytes + strips.offset(row_in_strip, byte_idx, row_bytes)
            }
        }
    }
}

impl CodeRows<'_> {
    /// Returns one code.
    pub(crate) fn code(&self, row_idx: usize, code_idx: usize) -> u8 {
        let codes_per_byte = 8 / self.bits.width();
        let byte = self.layout.offset(row_idx, code_idx / codes_per_byte, self.rows.row_bytes());
        let byte = self.rows.bytes()[byte];
        match self.bits {
            CodeBits::Four => byte >> (code_idx % 2 * 4) & 15,
            CodeBits::Eight => byte,
        }
    }
}

/// Code widths that kernels read. Others are widened to [`Eight`](Self::Eight) first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeBits {
    Four,
    Eight,
}

impl CodeBits {
    /// Bits per code.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Codes per 32-bit word.
    pub(crate) const fn word_codes(self) -> usize {
        32 / self.width()
    }

    /// Order in which kernels process the codes of a unit: in pairs, each pair being the two codes that one shift and
    /// one mask leave in the halves of a word. `ORDER[i]` is the position in the row of the `i`-th code processed.
    pub(crate) const fn order(self) -> [usize; UNIT] {
        match self {
            Self::Four => [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15],
            Self::Eight => [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15],
        }
    }

    /// Bytes taken by `n_codes` codes.
    pub(crate) const fn bytes(self, n_codes: usize) -> usize {
        n_codes / self.word_codes() * 4
    }
}

/// A panel: the unpacked codes of some groups of a tile, one `i16` each.
#[derive(Debug, Default)]
pub(crate) struct CodePanel {
    /// `[codes / 2]`, in the order of the activations.
    pub(crate) pairs: Vec<CodePairs>,
    /// `[groups]`: correction for the terms that products of sums add beyond the products of codes and activations; see
    /// [`pack_rows`](crate::activations::pack_rows).
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only the kernels for AVX-512 take products of sums")
    )]
    pub(crate) cross: Vec<IntLanes>,
}

/// Decoded scales and biases of a tile, `[groups]` each.
#[derive(Debug, Default)]
pub(crate) struct GroupLanes {
    pub(crate) scales: Vec<Lanes>,
    pub(crate) biases: Vec<Lanes>,
}
