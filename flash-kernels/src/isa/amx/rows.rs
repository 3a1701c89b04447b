//! Activations for the matrix unit: digits of 8 bits, 16 rows side by side.

use super::unit::ROW_BYTES;
use crate::activations::{ROW_TILE, RowPairs, digits_of};
use crate::tile::CodeBits;

/// Bytes of a step along `k` in groups of `group`: a group, or what a row of the unit's tiles holds.
pub(super) const fn step_bytes(group: usize) -> usize {
    if group < ROW_BYTES { group } else { ROW_BYTES }
}

/// [`Kernels::pack_rows`](crate::isa::Kernels::pack_rows): for each step the upper digits of all rows, and then the lower, in
/// the order in which words of codes come apart: with codes of 4 bits first those in lower halves of bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn pack(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], _cross: &mut [i32; ROW_TILE]) {
    let group = codes.len() / ROW_TILE;
    let step = step_bytes(group);
    let digits: &mut [u8] = bytemuck::cast_slice_mut(pairs);
    for (step_idx, digits) in digits.chunks_exact_mut(2 * ROW_TILE * step).enumerate() {
        let (upper, lower) = digits.split_at_mut(ROW_TILE * step);
        let rows =
            codes.chunks_exact(group).zip(upper.chunks_exact_mut(step).zip(lower.chunks_exact_mut(step)));
        for (codes, (upper, lower)) in rows {
            let codes = &codes[step_idx * step..][..step];
            match bits {
                CodeBits::Four => {
                    let words = codes.as_chunks::<8>().0.iter();
                    let outs = upper.as_chunks_mut::<8>().0.iter_mut().zip(lower.as_chunks_mut::<8>().0);
                    for (word, (upper, lower)) in words.zip(outs) {
                        for at in 0..8 {
                            let code = word[at % 4 * 2 + at / 4];
                            (upper[at], lower[at]) = digits_of(code);
                        }
                    }
                }
                CodeBits::Eight => {
                    for (code, (upper, lower)) in codes.iter().zip(upper.iter_mut().zip(lower)) {
                        (*upper, *lower) = digits_of(*code);
                    }
                }
            }
        }
    }
}
