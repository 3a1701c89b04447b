//! Rewrites formats that kernels do not read into formats that they do: codes of 2, 3, 5 and 6 bits and mxfp4 into
//! affine codes of 8 bits, mxfp8 and nvfp4 into `f32`.
//!
//! The code uses arithmetic on words rather than tables, because compilers vectorize only the former.

use crate::mx::{self, e2m1, e4m3, e8m0};

/// A format that [`widen`] rewrites.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NarrowFormat<'a> {
    /// Codes of 2, 3, 5 or 6 bits, packed without gaps from the lowest bit of each byte up. Become one code per byte.
    Bits(u32),
    /// mxfp4 codes. Become one unsigned code per byte: twice the value plus 12.
    E2m1,
    /// mxfp8 codes, with the scale of each group. Become `f32`.
    E4m3 { exponents: &'a [u8] },
    /// nvfp4 codes, with the scale of each group. Become `f32`.
    Nvfp4 { scales: &'a [u8] },
}

/// Rewrites whole rows of `codes` into `out`, which has the length of the result.
#[inline(always)]
pub(crate) fn widen(narrow: NarrowFormat<'_>, codes: &[u8], out: &mut [u8]) {
    match narrow {
        NarrowFormat::Bits(2) => {
            for (out, byte) in out.as_chunks_mut().0.iter_mut().zip(codes) {
                let word = u32::from(*byte);
                let spread = word & 3 | (word & 12) << 6 | (word & 48) << 12 | (word & 192) << 18;
                *out = spread.to_le_bytes();
            }
        }
        NarrowFormat::Bits(3) => {
            for (out, &[a, b, c]) in out.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0) {
                let word = u64::from(u32::from_le_bytes([a, b, c, 0]));
                // Spread the halves, quarters and eighths of the 24 bits, one step at a time.
                let halves = word & 0xFFF | (word & 0xFF_F000) << 20;
                let quarters = halves & 0x3F_0000_003F | (halves & 0xFC0_0000_0FC0) << 10;
                let eighths = quarters & 0x7_0007_0007_0007 | (quarters & 0x38_0038_0038_0038) << 5;
                *out = eighths.to_le_bytes();
            }
        }
        NarrowFormat::Bits(5) => {
            for (out, &[a, b, c, d, e]) in out.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0) {
                let word = u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
                // Spread the halves, quarters and eighths of the 40 bits, one step at a time.
                let halves = word & 0xF_FFFF | (word & 0xFF_FFF0_0000) << 12;
                let quarters = halves & 0x3FF_0000_03FF | (halves & 0xF_FC00_000F_FC00) << 6;
                let eighths = quarters & 0x1F_001F_001F_001F | (quarters & 0x3E0_03E0_03E0_03E0) << 3;
                *out = eighths.to_le_bytes();
            }
        }
        NarrowFormat::Bits(_) => {
            for (out, &[a, b, c]) in out.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0) {
                let word = u32::from_le_bytes([a, b, c, 0]);
                *out = [0, 6, 12, 18].map(|shift| (word >> shift & 63) as u8);
            }
        }
        NarrowFormat::E2m1 => {
            let unsigned = |code: u8| {
                let magnitude = code & 7;
                // Magnitudes 0, 1, 2, 3, 4, 6, 8, 12.
                let doubled = magnitude + magnitude.saturating_sub(4) + 2 * magnitude.saturating_sub(6);
                if code & 8 == 0 { 12 + doubled } else { 12 - doubled }
            };
            for ([low, high], byte) in out.as_chunks_mut().0.iter_mut().zip(codes) {
                *low = unsigned(byte & 15);
                *high = unsigned(byte >> 4);
            }
        }
        NarrowFormat::Nvfp4 { scales } => {
            let groups = codes.as_chunks::<{ mx::NV_GROUP / 2 }>().0.iter().zip(scales);
            for (out, (codes, scale)) in out.as_chunks_mut::<{ 4 * mx::NV_GROUP }>().0.iter_mut().zip(groups)
            {
                let scale = e4m3(*scale);
                for (out, byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(codes) {
                    let [low, high] = [byte & 15, byte >> 4].map(|code| (scale * e2m1(code)).to_le_bytes());
                    out[..4].copy_from_slice(&low);
                    out[4..].copy_from_slice(&high);
                }
            }
        }
        NarrowFormat::E4m3 { exponents } => {
            let groups = codes.as_chunks::<{ mx::GROUP }>().0.iter().zip(exponents);
            for (out, (codes, exponent)) in out.as_chunks_mut::<{ 4 * mx::GROUP }>().0.iter_mut().zip(groups)
            {
                let scale = e8m0(*exponent);
                for (out, code) in out.as_chunks_mut().0.iter_mut().zip(codes) {
                    *out = (scale * e4m3(*code)).to_le_bytes();
                }
            }
        }
    }
}

/// Computes the bf16 scales and biases of widened mxfp4 codes: half of the scale, and −12 times that.
///
/// Both are exact, except that the bias is infinite for scales from 2¹²⁵ on, where products of code and scale would
/// overflow.
pub(crate) fn widen_e8m0(exponents: &[u8], scales: &mut Vec<u8>, biases: &mut Vec<u8>) {
    scales.resize(2 * exponents.len(), 0);
    biases.resize(2 * exponents.len(), 0);
    let outs = scales.as_chunks_mut().0.iter_mut().zip(biases.as_chunks_mut().0);
    for ((scale, bias), exponent) in outs.zip(exponents) {
        let exponent = u16::from(*exponent);
        // The subnormal numbers 2⁻¹²⁸ and 2⁻¹²⁷ are bits 5 and 6.
        let subnormal = 32 + 32 * exponent;
        let normal = exponent.wrapping_sub(1) << BF16_MANTISSA_BITS;
        let finite = if exponent < 2 { subnormal } else { normal };
        *scale = if exponent == 255 { BF16_INFINITY } else { finite }.to_le_bytes();
        // −12 · 2^(e − 128) = −1.5 · 2^(e − 125).
        let finite = (exponent + 2) << BF16_MANTISSA_BITS | BF16_HALF;
        let magnitude = if exponent < 252 { finite } else { BF16_INFINITY };
        *bias = (BF16_SIGN | magnitude).to_le_bytes();
    }
}

const BF16_MANTISSA_BITS: u32 = 7;
const BF16_INFINITY: u16 = 255 << BF16_MANTISSA_BITS;
const BF16_SIGN: u16 = 1 << 15;
/// Highest bit of the mantissa.
const BF16_HALF: u16 = 1 << 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::FloatType;
    use crate::mx::Mx;

    #[test]
    fn mxfp4_has_the_same_values_as_affine_codes() {
        let codes: Vec<u8> = (0..16).map(|code| code | (15 - code) << 4).collect();
        for exponent in 0..252 {
            let mut wanted = [0.0; 32];
            Mx::Fp4.dequantize_row(&codes, &[exponent], &mut wanted).unwrap();
            let (mut widened, mut scales, mut biases) = ([0; 32], Vec::new(), Vec::new());
            widen(NarrowFormat::E2m1, &codes, &mut widened);
            widen_e8m0(&[exponent], &mut scales, &mut biases);
            let (scale, bias) = (FloatType::BF16.get(&scales, 0), FloatType::BF16.get(&biases, 0));
            for (code, wanted) in widened.into_iter().zip(wanted) {
                assert_eq!(f32::from(code) * scale + bias, wanted, "scale {exponent}, code {code}");
            }
        }
    }

    #[test]
    fn mxfp4_scales_beyond_the_range_have_an_infinite_bias() {
        for exponent in 252..=255 {
            let (mut scales, mut biases) = (Vec::new(), Vec::new());
            widen_e8m0(&[exponent], &mut scales, &mut biases);
            assert_eq!(FloatType::BF16.get(&biases, 0), f32::NEG_INFINITY);
            assert_eq!(FloatType::BF16.get(&scales, 0).is_infinite(), exponent == 255);
        }
    }
}
