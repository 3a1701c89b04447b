//! What kernels work on: a tile of weight rows, unpacked or as stored, and the layouts shared by all instruction
//! sets.

use std::ops::Range;

use crate::float::FloatType;
use crate::strips::{STRIP_ROWS, place};

/// Rows of the weights in a tile: two AVX-512 vectors of `f32`. Enough that one activation loaded from cache
/// serves two vectors of weights, and few enough that eight rows of activations fit the registers beside them.
pub(crate) const TILE: usize = 32;

/// Values along `k` that a panel holds: its codes take 16 KiB, half of the smallest L1 data cache in use.
pub(crate) const PANEL_K: usize = 256;

/// Values along `k` of a panel of floating-point weights: 16 KiB as well.
pub(crate) const FLOAT_PANEL_K: usize = 256;

/// Codes that are paired in one fixed pattern: see [`FixedRows`](crate::activations::FixedRows).
pub(crate) const UNIT: usize = 16;

/// One number for each row of a tile.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; TILE]);

/// Rows of [`TILE`] numbers each, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneRows<'a> {
    numbers: &'a [f32],
    /// Numbers from one row to the next.
    stride: usize,
    n: usize,
}

impl<'a> LaneRows<'a> {
    /// The columns from `start` on of all rows of `numbers`, `[n, row_len]`, which has as many.
    #[inline]
    pub(crate) fn columns(numbers: &'a [f32], row_len: usize, start: usize) -> Self {
        assert!(start + TILE <= row_len, "{TILE} columns from {start} on of {row_len}");
        let n = numbers.len() / row_len;
        Self { numbers: numbers.get(start..).unwrap_or_default(), stride: row_len, n }
    }

    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.n
    }

    /// These of the rows.
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

    /// Adds `chain` to each lane.
    pub(crate) fn add(&mut self, chain: &Self) {
        for (sum, value) in self.0.iter_mut().zip(chain.0) {
            *sum += value;
        }
    }
}

/// [`TILE`] rows of stored bytes, each of one length and right behind the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    /// The tiles of the rows `range` of a matrix with rows of `row_bytes`. If the last has fewer rows than a tile,
    /// `spare` takes a copy of them, and zeros for those that are missing.
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

    /// The one tile of [`TILE`] rows of `row_bytes`.
    pub(crate) fn whole(bytes: &'a [u8], row_bytes: usize) -> Self {
        assert_eq!(bytes.len(), TILE * row_bytes, "a tile of {row_bytes} B a row");
        Self { bytes, row_bytes }
    }

    /// The row `row_idx`.
    #[inline]
    pub(crate) fn row(&self, row_idx: usize) -> &'a [u8] {
        &self.bytes[row_idx * self.row_bytes..][..self.row_bytes]
    }

    /// All rows.
    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of each row.
    #[inline]
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }
}

/// Rows of floating-point numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloatRows<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) float: FloatType,
}

/// Rows of codes of 4 or 8 bits, `group` of which share a scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodeRows<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) layout: Layout,
    pub(crate) bits: CodeBits,
    pub(crate) group: usize,
}

/// In which order the codes of a matrix lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One row behind the other.
    Rows,
    /// As [`into_strips`](crate::into_strips) lays them.
    Strips,
}

impl CodeRows<'_> {
    /// One code.
    pub(crate) fn code(&self, row_idx: usize, code_idx: usize) -> u8 {
        let codes_per_byte = 8 / self.bits.width();
        let byte = self.byte(row_idx, code_idx / codes_per_byte);
        match self.bits {
            CodeBits::Four => byte >> (code_idx % 2 * 4) & 15,
            CodeBits::Eight => byte,
        }
    }

    fn byte(&self, row_idx: usize, byte_idx: usize) -> u8 {
        let row_bytes = self.rows.row_bytes();
        match self.layout {
            Layout::Rows => self.rows.row(row_idx)[byte_idx],
            Layout::Strips => {
                let strip = &self.rows.bytes()[row_idx / STRIP_ROWS * STRIP_ROWS * row_bytes..];
                strip[place(row_idx % STRIP_ROWS, byte_idx, row_bytes)]
            }
        }
    }
}

/// The widths of codes that kernels read. Others are widened to [`Eight`](Self::Eight) first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeBits {
    Four,
    Eight,
}

impl CodeBits {
    /// Bits of a code.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Codes in a word of 32 bits.
    pub(crate) const fn word_codes(self) -> usize {
        32 / self.width()
    }

    /// The order in which kernels take the codes of a unit: two at a time, each pair being what one shift and one
    /// mask leave in the halves of a word. `ORDER[i]` is the place in the row of what is taken as the `i`-th.
    pub(crate) const fn order(self) -> [usize; UNIT] {
        match self {
            Self::Four => [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15],
            Self::Eight => [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15],
        }
    }

    /// Bytes of `n_codes` codes.
    pub(crate) const fn bytes(self, n_codes: usize) -> usize {
        n_codes / self.word_codes() * 4
    }
}

/// A panel: the codes of some groups of a tile's rows, one `i16` each.
#[derive(Debug, Default)]
pub(crate) struct CodePanel {
    /// `[codes / 2]` in the order of the activations.
    pub(crate) pairs: Vec<CodePairs>,
    /// `[groups]`: what the products of sums add that no product of a code and an activation is; see
    /// [`pack_rows`](crate::activations::pack_rows).
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only the kernels for AVX-512 take products of sums")
    )]
    pub(crate) cross: Vec<IntLanes>,
}

/// Scales and biases of a tile's rows: `[groups]` each.
#[derive(Debug, Default)]
pub(crate) struct GroupLanes {
    pub(crate) scales: Vec<Lanes>,
    pub(crate) biases: Vec<Lanes>,
}
