//! Activations as two signed 8-bit digits, `code = 256 · upper + lower`: a vector holds 8 upper and 8 lower digits.

use super::codes::Vector;
use super::vectors::VECTOR_BYTES;
use crate::activations::{Plane, ROW_TILE, RowPairs, digits_of, zero_planes};
use crate::tile::CodeBits;

/// Codes whose digits a vector holds.
pub(super) const DEPTH: usize = VECTOR_BYTES / 2;

/// Vectors of digits of 8 codes of each row of a tile of activations.
pub(super) type RowDigits = [Vector; ROW_TILE];

/// Returns the number of vectors for 8 bytes of codes.
const fn vectors(bits: CodeBits) -> usize {
    8 / bits.width()
}

/// Splits the activations for 8 bytes of weights into [`vectors`]. Codes of 4 bits: those for the lower halves of the
/// bytes, then those for the upper halves.
#[inline(always)]
fn split<'a>(bits: CodeBits, codes: &[i16], out: impl Iterator<Item = &'a mut Vector>) {
    for (first, out) in out.enumerate() {
        for at in 0..DEPTH {
            (out[at], out[DEPTH + at]) = digits_of(codes[at * vectors(bits) + first]);
        }
    }
}

/// Arranges whole lines of codes of one row.
pub(super) fn arrange(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    let mut planes = zero_planes(codes);
    let digits: &mut [Vector] = bytemuck::cast_slice_mut(&mut planes);
    for (codes, digits) in
        codes.chunks_exact(DEPTH * vectors(bits)).zip(digits.chunks_exact_mut(vectors(bits)))
    {
        split(bits, codes, digits.iter_mut());
    }
    planes
}

/// Packs a group of a tile of rows. Sets `cross` to 128 times the sum of each row if the kernels for signed bytes reduce
/// the codes of weights by 128.
pub(super) fn pack_rows(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], cross: &mut [i32; ROW_TILE]) {
    let group = codes.len() / ROW_TILE;
    let digits: &mut [RowDigits] = bytemuck::cast_slice_mut(pairs);
    for (row, (codes, cross)) in codes.chunks_exact(group).zip(cross).enumerate() {
        let units = codes.chunks_exact(DEPTH * vectors(bits)).zip(digits.chunks_exact_mut(vectors(bits)));
        for (codes, digits) in units {
            split(bits, codes, digits.iter_mut().map(|rows| &mut rows[row]));
        }
        *cross = match bits {
            CodeBits::Four => 0,
            CodeBits::Eight => 128 * codes.iter().map(|code| i32::from(*code)).sum::<i32>(),
        };
    }
}
