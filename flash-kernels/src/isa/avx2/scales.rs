//! Scales and biases of half a tile.

use std::arch::x86_64::*;
use std::ops::Range;

use super::floats::{decode_octets, load_strip};
use super::vectors::VECTORS;
use super::words::HALF_ROWS;
use crate::chains::CHAINS;
use crate::isa::x86::{prefetch_line, prefetch_rows};
use crate::tile::{FloatRows, Lanes, Layout};

/// Distance at which numbers in strips are prefetched: that of the codes, of which a group has eight times the bytes or
/// more.
const AHEAD_BYTES: usize = 512;

/// Scales or biases of half a tile: read from strips one group at a time, or decoded from rows, one group of each chain
/// at a time.
pub(super) struct HalfFloats<'a> {
    rows: FloatRows<'a>,
    half: usize,
    /// `None` for strips.
    decoded: Option<[Lanes; CHAINS]>,
}

impl<'a> HalfFloats<'a> {
    #[inline]
    pub(super) fn new(rows: FloatRows<'a>, half: usize) -> Self {
        let decoded = (rows.layout == Layout::Rows).then_some([Lanes::ZERO; CHAINS]);
        Self { rows, half, decoded }
    }

    /// Decodes some groups, at most one of each chain, before they are loaded.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn decode(&mut self, groups: Range<usize>) {
        if let Some(decoded) = &mut self.decoded {
            let next_rows = (self.half + 1) * HALF_ROWS..(self.half + 2) * HALF_ROWS;
            prefetch_rows(self.rows, next_rows, groups.clone());
            let octets = VECTORS * self.half..VECTORS * (self.half + 1);
            decode_octets(self.rows, octets, groups.clone(), &mut decoded[..groups.len()]);
        }
    }

    /// Returns the numbers of a group.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn load(&self, group_idx: usize) -> [__m256; VECTORS] {
        match &self.decoded {
            Some(decoded) => {
                let lanes = &decoded[group_idx % CHAINS];
                [lanes.load_256(VECTORS * self.half), lanes.load_256(VECTORS * self.half + 1)]
            }
            None => {
                let start = self.half * HALF_ROWS * self.rows.rows.row_bytes();
                let group_bytes = HALF_ROWS * self.rows.float.size_bytes();
                let address = self.rows.rows.bytes().as_ptr().wrapping_add(start + group_idx * group_bytes);
                prefetch_line(address.wrapping_add(AHEAD_BYTES));
                load_strip(self.rows, self.half, group_idx)
            }
        }
    }
}
