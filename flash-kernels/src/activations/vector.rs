use super::{Exception, Terms, exceptions};
use crate::chains::CHAINS;
use crate::isa::Kernels;
use crate::tile::CodeBits;

/// Bytes of stored codes multiplied at a time: a cache line.
pub(crate) const LINE_BYTES: usize = 64;

/// Activations for one line of codes, in the order in which kernels extract the codes.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Plane(pub(crate) [u8; LINE_BYTES]);

/// Fixed-point activations of one row, for weights as stored.
#[derive(Debug)]
pub(crate) struct FixedVector {
    /// The activations as the instruction set [arranges](Kernels::arrange) them; those beyond `k` in the last line are
    /// zero.
    pub(crate) planes: Vec<Plane>,
    /// The [`Terms`] of each group as separate vectors, padded with zeros to a multiple of [`CHAINS`].
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<f32>,
    /// Exceptions, all with row index 0.
    pub(crate) exceptions: Vec<Exception>,
}

impl FixedVector {
    /// Converts the row `x`, which is whole groups.
    pub(crate) fn new(kernels: &Kernels, x: &[f32], group: usize, bits: CodeBits) -> Self {
        let line_codes = LINE_BYTES * 8 / bits.width();
        let mut codes = vec![0; x.len().next_multiple_of(line_codes)];
        let mut scales = vec![0.0; (x.len() / group).next_multiple_of(CHAINS)];
        let mut sums = scales.clone();
        let mut found = Vec::new();
        let groups = codes.chunks_exact_mut(group).zip(x.chunks_exact(group));
        for (idx, (codes, values)) in groups.enumerate() {
            let mut terms = Terms::default();
            if !(kernels.quantize_group)(values, codes, &mut terms) {
                found.extend(exceptions(0, idx * group, values));
            }
            (scales[idx], sums[idx]) = (terms.scale, terms.sum);
        }
        Self { planes: (kernels.arrange)(bits, &codes), scales, sums, exceptions: found }
    }
}

/// Returns zeroed planes for one arrangement of `codes`: per line 4 for codes of 4 bits, 2 for codes of 8.
pub(crate) fn zero_planes(codes: &[i16]) -> Vec<Plane> {
    vec![Plane([0; LINE_BYTES]); size_of_val(codes) / LINE_BYTES]
}

/// Arranges whole lines of codes as 16-bit numbers: one plane per shift of a line's 32-bit words, by 0, 4, 8 and 12
/// (codes of 4 bits) or 0 and 8, for the codes that the shift leaves in both halves of each word.
#[inline(always)]
pub(crate) fn arrange_words(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    let mut planes = zero_planes(codes);
    let word_codes = bits.word_codes();
    let line_codes = LINE_BYTES / 4 * word_codes;
    for (codes, planes) in codes.chunks_exact(line_codes).zip(planes.chunks_exact_mut(word_codes / 2)) {
        for (shift, plane) in planes.iter_mut().enumerate() {
            for (word, codes) in plane.0.as_chunks_mut::<4>().0.iter_mut().zip(codes.chunks_exact(word_codes))
            {
                let [a, b] = codes[shift].to_le_bytes();
                let [c, d] = codes[shift + word_codes / 2].to_le_bytes();
                *word = [a, b, c, d];
            }
        }
    }
    planes
}

/// Arranges whole lines of codes as two signed 8-bit digits, `code = 256 · upper + lower`. Codes of 4 bits: the upper
/// digits for the lower and the upper halves of the line's bytes, then the lower digits in the same order. Codes of 8
/// bits: the upper digits, then the lower.
#[inline(always)]
pub(crate) fn arrange_digits(bits: CodeBits, codes: &[i16]) -> Vec<Plane> {
    let mut planes = zero_planes(codes);
    match bits {
        CodeBits::Four => {
            let lines =
                planes.as_chunks_mut::<4>().0.iter_mut().zip(codes.as_chunks::<{ 2 * LINE_BYTES }>().0);
            for (planes, codes) in lines {
                for (idx, [even, odd]) in codes.as_chunks::<2>().0.iter().enumerate() {
                    (planes[0].0[idx], planes[2].0[idx]) = digits_of(*even);
                    (planes[1].0[idx], planes[3].0[idx]) = digits_of(*odd);
                }
            }
        }
        CodeBits::Eight => {
            let lines = planes.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<LINE_BYTES>().0);
            for (planes, codes) in lines {
                for (idx, code) in codes.iter().enumerate() {
                    (planes[0].0[idx], planes[1].0[idx]) = digits_of(*code);
                }
            }
        }
    }
    planes
}

/// Returns the two signed digits, upper and lower, of a code: `code = 256 · upper + lower`.
#[inline(always)]
pub(crate) fn digits_of(code: i16) -> (u8, u8) {
    (((code + 128) >> 8) as u8, code as u8)
}
