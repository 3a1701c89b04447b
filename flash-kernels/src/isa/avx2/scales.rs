//! Scales and biases of half a tile.

use std::arch::x86_64::*;
use std::ops::Range;

use super::floats::{decode_octets, load_strip};
use super::vectors::VECTORS;
use crate::isa::x86::HalfFloats;

impl HalfFloats<'_> {
    /// Decodes some groups, at most one of each chain, before they are loaded.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn decode_256(&mut self, groups: Range<usize>) {
        let (rows, half) = (self.rows, self.half);
        if let Some(out) = self.buffer(&groups) {
            decode_octets(rows, VECTORS * half..VECTORS * (half + 1), groups, out);
        }
    }

    /// Returns the numbers of a group.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn load_256(&self, group_idx: usize) -> [__m256; VECTORS] {
        match self.decoded(group_idx) {
            Some(lanes) => [lanes.load_256(VECTORS * self.half), lanes.load_256(VECTORS * self.half + 1)],
            None => load_strip(self.rows, self.half, group_idx),
        }
    }
}
