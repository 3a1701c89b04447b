//! The microscaling formats mxfp4 and mxfp8 of the OCP Microscaling Formats (MX) Specification v1.0, and nvfp4, as MLX
//! 0.32 stores and decodes them.
//!
//! Values are grouped along the last axis. Each group has one scale, and each value a small floating-point code:
//! `value = scale · code`. Scales are powers of two stored as exponents (e8m0), except in nvfp4, where they are e4m3.

use crate::error::{KernelError, check_len};

/// Values per scale in mxfp4 and mxfp8.
pub(crate) const GROUP: usize = 32;

/// Values per scale in nvfp4.
pub(crate) const NV_GROUP: usize = 16;

/// A microscaling format.
///
/// A row of `n` values is stored as
/// - `codes`: `n · bits / 8` bytes, the first value of a byte in its lowest bits,
/// - `scales`: `n / group_size` bytes.
///
/// As in MLX, two encodings that the specification reserves for NaN are ordinary numbers: the scale 255 is infinity
/// (2¹²⁸), the mxfp8 code `s1111111` is ±480.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mx {
    /// mxfp4: codes of 4 bits, e2m1 (0, ½, 1, 1½, 2, 3, 4, 6 and their negatives).
    Fp4,
    /// mxfp8: codes of 8 bits, e4m3 (from 2⁻⁹ to 448 in magnitude).
    Fp8,
    /// nvfp4: the codes of mxfp4 in groups of 16, whose scales are e4m3.
    Nv4,
}

impl Mx {
    /// Returns the number of values that share a scale.
    pub const fn group_size(self) -> usize {
        match self {
            Self::Fp4 | Self::Fp8 => GROUP,
            Self::Nv4 => NV_GROUP,
        }
    }

    /// Returns the bits per code.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Fp4 | Self::Nv4 => 4,
            Self::Fp8 => 8,
        }
    }

    /// Returns the bytes that the codes of `n_values` values take; `n_values` is a multiple of the group size.
    pub const fn codes_bytes(self, n_values: usize) -> usize {
        match self {
            Self::Fp4 | Self::Nv4 => n_values / 2,
            Self::Fp8 => n_values,
        }
    }

    /// Dequantizes one row, or several contiguous rows, into `out`: `[n]`.
    ///
    /// Each value is the product of scale and code: exact within the range of `f32`, infinite beyond. This is what
    /// `mx.dequantize(…, dtype=mx.float32)` computes.
    ///
    /// # Errors
    /// [`KernelError::PartialGroup`] if `out` is not whole groups, [`KernelError::SliceLen`] if the length of another
    /// slice does not fit `out`.
    pub fn dequantize_row(self, codes: &[u8], scales: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
        let group_size = self.group_size();
        if !out.len().is_multiple_of(group_size) {
            return Err(KernelError::PartialGroup { n_values: out.len(), group_size });
        }
        check_len("codes", self.codes_bytes(out.len()), codes.len())?;
        check_len("scales", out.len() / group_size, scales.len())?;
        let codes = codes.chunks_exact(self.codes_bytes(group_size));
        for ((out, codes), scale) in out.chunks_exact_mut(group_size).zip(codes).zip(scales) {
            let scale = if self == Self::Nv4 { e4m3(*scale) } else { e8m0(*scale) };
            match self {
                Self::Fp4 | Self::Nv4 => {
                    for ([low, high], byte) in out.as_chunks_mut().0.iter_mut().zip(codes) {
                        *low = scale * E2M1[usize::from(byte & 15)];
                        *high = scale * E2M1[usize::from(byte >> 4)];
                    }
                }
                Self::Fp8 => {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = scale * e4m3(*code);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Decodes a power of two: 2^(`exponent` − 127).
#[inline(always)]
pub(crate) const fn e8m0(exponent: u8) -> f32 {
    // An `f32` exponent has the same bias, but 0 means subnormal, and 2⁻¹²⁷ is a subnormal number.
    f32::from_bits(if exponent == 0 { 1 << 22 } else { (exponent as u32) << 23 })
}

/// Values of the e2m1 codes: sign, two exponent bits, one mantissa bit.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Decodes an e2m1 code arithmetically, without a table.
#[inline(always)]
pub(crate) const fn e2m1(code: u8) -> f32 {
    // As in `e4m3`; the exponent bias is 1.
    let fields = (code as u32 & 8) << 28 | (code as u32 & 7) << 22;
    f32::from_bits(fields) * f32::from_bits((127 + 127 - 1) << 23)
}

/// Decodes an e4m3 code: sign, four exponent bits, three mantissa bits. `s1111111` is ±480, as for [`Mx`].
#[inline(always)]
pub const fn e4m3(code: u8) -> f32 {
    // Move the fields to their place in an `f32`, then correct the exponent bias (7 to 127). Exact for subnormal
    // numbers too.
    let fields = (code as u32 & 128) << 24 | (code as u32 & 127) << 20;
    f32::from_bits(fields) * f32::from_bits((127 + 127 - 7) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_specification() {
        for (code, value) in [(0, 0.0), (1, 2f32.powi(-9)), (8, 2f32.powi(-6)), (0x38, 1.0), (0x7E, 448.0)] {
            assert_eq!(e4m3(code), value);
            assert_eq!(e4m3(code + 128).to_bits(), (-value).to_bits());
        }
        assert_eq!([e8m0(0), e8m0(1), e8m0(127), e8m0(254)], [-127, -126, 0, 127].map(|e| 2f32.powi(e)));
    }

    #[test]
    fn slices_that_do_not_fit_the_row_are_named() {
        let fails = |format: Mx, values: usize, codes: usize, scales: usize| {
            format.dequantize_row(&vec![0; codes], &vec![0; scales], &mut vec![0.0; values]).unwrap_err()
        };
        let wrong = |slice, wanted_bytes, got_bytes| KernelError::SliceLen { slice, wanted_bytes, got_bytes };
        assert_eq!(fails(Mx::Fp4, 33, 16, 1), KernelError::PartialGroup { n_values: 33, group_size: 32 });
        assert_eq!(fails(Mx::Fp4, 64, 33, 2), wrong("codes", 32, 33));
        assert_eq!(fails(Mx::Fp8, 64, 32, 2), wrong("codes", 64, 32));
        assert_eq!(fails(Mx::Fp8, 64, 64, 4), wrong("scales", 2, 4));
    }
}
