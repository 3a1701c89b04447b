//! Scales and biases of half a tile, for kernels whose lanes are rows of weights.

use std::ops::Range;

use super::{prefetch_line, prefetch_rows};
use crate::chains::CHAINS;
use crate::strips::Strips;
use crate::tile::{FloatRows, Lanes, Layout};

/// Rows of half a tile: those of a strip.
const HALF_ROWS: usize = Strips::SIXTEEN_ROWS.rows();

/// Distance at which numbers in strips are prefetched: that of the codes, of which a group has eight times the bytes or
/// more.
const AHEAD_BYTES: usize = 512;

/// Scales or biases of half a tile: read from strips one group at a time, or decoded from rows, one group of each chain
/// at a time. Instruction sets add how they decode and load.
pub(in crate::isa) struct HalfFloats<'a> {
    pub(in crate::isa) rows: FloatRows<'a>,
    pub(in crate::isa) half: usize,
    /// `None` for strips.
    decoded: Option<[Lanes; CHAINS]>,
}

impl<'a> HalfFloats<'a> {
    #[inline]
    pub(in crate::isa) fn new(rows: FloatRows<'a>, half: usize) -> Self {
        let decoded = (rows.layout == Layout::Rows).then_some([Lanes::ZERO; CHAINS]);
        Self { rows, half, decoded }
    }

    /// Returns where to decode some groups, at most one of each chain, before they are loaded, and prefetches those of
    /// the next half. None for strips.
    #[inline]
    #[target_feature(enable = "sse")]
    pub(in crate::isa) fn buffer(&mut self, groups: &Range<usize>) -> Option<&mut [Lanes]> {
        let decoded = self.decoded.as_mut()?;
        let next_rows = (self.half + 1) * HALF_ROWS..(self.half + 2) * HALF_ROWS;
        prefetch_rows(self.rows, next_rows, groups.clone());
        Some(&mut decoded[..groups.len()])
    }

    /// Returns the decoded numbers of a group. None for strips, of which later numbers are prefetched.
    #[inline]
    #[target_feature(enable = "sse")]
    pub(in crate::isa) fn decoded(&self, group_idx: usize) -> Option<&Lanes> {
        if let Some(decoded) = &self.decoded {
            return Some(&decoded[group_idx % CHAINS]);
        }
        let start = self.half * HALF_ROWS * self.rows.rows.row_bytes();
        let group_bytes = HALF_ROWS * self.rows.float.size_bytes();
        let address = self.rows.rows.bytes().as_ptr().wrapping_add(start + group_idx * group_bytes);
        prefetch_line(address.wrapping_add(AHEAD_BYTES));
        None
    }
}
