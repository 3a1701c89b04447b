//! Affine group quantization: `value ≈ bias + scale · code`.
//!
//! The `bias` of a group is its minimum, `scale` is (maximum − minimum) / steps but at least 2⁻¹⁰⁰, and a code is the
//! number of steps above the bias, rounded to nearest. The round-trip error is at most [`error_bound`].
//!
//! Loops run over fixed-length arrays without branches, so that the compiler vectorizes them for every instruction set.
//! Each element goes through the same operations on all of them, so codes are identical everywhere.

/// Elements along `head_dim` that share a scale and a bias. The last group of a row may be shorter.
pub const GROUP_LEN: usize = 64;

/// The smallest scale: 2⁻¹⁰⁰. It keeps `1 / scale` finite and products out of the subnormals even if a group is
/// constant, and lies far below the resolution of half precision, 2⁻²⁴.
const MIN_SCALE: f32 = f32::from_bits((127 - 100) << 23);

/// Numbers are clamped to ±2¹²⁶, so that differences never overflow.
const MAX_NUMBER: f32 = f32::from_bits((127 + 126) << 23);

/// 1.5 · 2²³. Floats between 2²³ and 2²⁴ are integers, so adding this to a number in `0..2²²` rounds it to nearest,
/// ties to even, and leaves the integer in the low bits. `f32::round` is a function call on SSE2, and a saturating cast
/// takes three more instructions.
const ROUNDER: f32 = 12_582_912.0;

/// Code width in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeBits {
    /// Codes from 0 to 15, two per byte, the even column in the low half.
    Four,
    /// Codes from 0 to 255, one per byte.
    Eight,
}

impl CodeBits {
    /// Returns the number of steps between the minimum and the maximum of a group.
    pub const fn steps(self) -> u8 {
        match self {
            Self::Four => 15,
            Self::Eight => 255,
        }
    }

    /// Returns the bytes that the codes of `n` elements take.
    pub const fn codes_bytes(self, n: usize) -> usize {
        match self {
            Self::Four => n.div_ceil(2),
            Self::Eight => n,
        }
    }
}

/// Returns the largest round-trip error of quantization, against exact arithmetic: `scale / 2 + 2⁻²⁰ · max_abs`, where
/// the second term covers `f32` rounding.
///
/// `max_abs` is the largest magnitude in the group. Numbers beyond ±2¹²⁶ are clamped to ±2¹²⁶. A group with an infinity
/// or a NaN comes back as NaN.
pub fn error_bound(scale: f32, max_abs: f32) -> f64 {
    // With u = 2⁻²⁴, relative to exact arithmetic: 3u of the distance from the bias until a code is rounded, u of that
    // distance for scale · code and u of the result for the sum. Distances are at most twice the largest magnitude, so
    // the total is below 10u; 16u are allowed.
    f64::from(scale) / 2.0 + f64::from(max_abs.min(MAX_NUMBER)) / f64::from(1 << 20)
}

/// A quantized group. Codes past its end are 0.
pub(crate) struct Group {
    pub(crate) scale: f32,
    pub(crate) bias: f32,
    pub(crate) codes: [u8; GROUP_LEN],
}

/// Quantizes the first `len` of `numbers`. The rest must repeat one of them.
#[inline(always)]
pub(crate) fn quantize_group(numbers: &[f32; GROUP_LEN], len: usize, bits: CodeBits) -> Group {
    // Integer keys in the order of the floats: integer minima do not depend on the order of comparisons, so the
    // compiler can vectorize them, which it may not do for floats.
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for number in numbers {
        let key = order_key(number.to_bits());
        low = low.min(key);
        high = high.max(key);
    }
    let [low, high] = [low, high].map(|key| f32::from_bits(order_key(key as u32) as u32));
    let mut codes = [0; GROUP_LEN];
    // Infinities and NaN order beyond all finite numbers.
    if !low.is_finite() || !high.is_finite() {
        return Group { scale: f32::NAN, bias: 0.0, codes };
    }
    let [low, high] = [low, high].map(|number| number.clamp(-MAX_NUMBER, MAX_NUMBER));
    let scale = ((high - low) / f32::from(bits.steps())).max(MIN_SCALE);
    let steps_per_unit = 1.0 / scale;
    for (code, number) in codes.iter_mut().zip(numbers) {
        let number = larger(smaller(*number, high), low);
        *code = ((number - low) * steps_per_unit + ROUNDER).to_bits() as u8;
    }
    codes[len..].fill(0);
    Group { scale, bias: low, codes }
}

/// Maps the bits of a float to an integer of the same order, and back. -0 orders below 0, NaN below or above all other
/// numbers, by its sign.
#[inline(always)]
fn order_key(bits: u32) -> i32 {
    let bits = bits as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// Returns the smaller number in one instruction; [`f32::min`] needs more to handle NaN.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Returns the larger number in one instruction.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Packs the codes of a group into `out`, which has the length of the packed codes.
#[inline(always)]
pub(crate) fn store_codes(codes: &[u8; GROUP_LEN], bits: CodeBits, out: &mut [u8]) {
    match bits {
        CodeBits::Eight => out.copy_from_slice(&codes[..out.len()]),
        CodeBits::Four => {
            let mut packed = [0; GROUP_LEN / 2];
            for (byte, pair) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
                let pair = u16::from_le_bytes(*pair);
                *byte = (pair | (pair >> 4)) as u8;
            }
            out.copy_from_slice(&packed[..out.len()]);
        }
    }
}

/// Dequantizes up to [`GROUP_LEN`] elements from packed codes.
#[inline(always)]
pub(crate) fn dequantize_group(codes: &[u8], bits: CodeBits, scale: f32, bias: f32, out: &mut [f32]) {
    match bits {
        CodeBits::Eight => {
            for (number, code) in out.iter_mut().zip(codes) {
                *number = bias + scale * f32::from(*code);
            }
        }
        CodeBits::Four => {
            let (pairs, rest) = out.as_chunks_mut::<2>();
            for (pair, code) in pairs.iter_mut().zip(codes) {
                *pair = [bias + scale * f32::from(code & 15), bias + scale * f32::from(code >> 4)];
            }
            if let ([number], Some(code)) = (rest, codes.get(pairs.len())) {
                *number = bias + scale * f32::from(code & 15);
            }
        }
    }
}

/// Copies a group into an array, padded with its first element, which changes neither minimum nor maximum.
#[inline]
pub(crate) fn padded(group: &[f32]) -> [f32; GROUP_LEN] {
    let mut numbers = [group[0]; GROUP_LEN];
    numbers[..group.len()].copy_from_slice(group);
    numbers
}

/// Quantizes a row.
///
/// `row`: `[head_dim]` · `codes`: [`CodeBits::codes_bytes`] of it · `scales`, `biases`: one for each group of
/// [`GROUP_LEN`], the last of which may be shorter. A group with an infinity or a NaN gets the scale NaN, so all of it
/// comes back as NaN and never as a number.
///
/// # Panics
/// If the lengths are inconsistent.
pub fn quantize_row(bits: CodeBits, row: &[f32], codes: &mut [u8], scales: &mut [f32], biases: &mut [f32]) {
    assert_row(bits, row.len(), codes.len(), scales.len(), biases.len());
    let out = codes.chunks_mut(bits.codes_bytes(GROUP_LEN)).zip(scales).zip(biases);
    for (group, ((codes, scale), bias)) in row.chunks(GROUP_LEN).zip(out) {
        let quantized = quantize_group(&padded(group), group.len(), bits);
        store_codes(&quantized.codes, bits, codes);
        (*scale, *bias) = (quantized.scale, quantized.bias);
    }
}

/// Dequantizes a row, the inverse of [`quantize_row`] up to [`error_bound`].
///
/// # Panics
/// If the lengths are inconsistent.
pub fn dequantize_row(bits: CodeBits, codes: &[u8], scales: &[f32], biases: &[f32], row: &mut [f32]) {
    assert_row(bits, row.len(), codes.len(), scales.len(), biases.len());
    let groups = codes.chunks(bits.codes_bytes(GROUP_LEN)).zip(scales).zip(biases);
    for (out, ((codes, scale), bias)) in row.chunks_mut(GROUP_LEN).zip(groups) {
        dequantize_group(codes, bits, *scale, *bias, out);
    }
}

fn assert_row(bits: CodeBits, head_dim: usize, codes: usize, scales: usize, biases: usize) {
    let n_groups = head_dim.div_ceil(GROUP_LEN);
    assert_eq!(codes, bits.codes_bytes(head_dim), "bytes of codes of a row of {head_dim}");
    assert_eq!((scales, biases), (n_groups, n_groups), "scales and biases of a row of {head_dim}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Quantizes and dequantizes a row; returns codes, scales and the result.
    fn round_trip(bits: CodeBits, row: &[f32]) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
        let n_groups = row.len().div_ceil(GROUP_LEN);
        let mut codes = vec![0xee; bits.codes_bytes(row.len())];
        let (mut scales, mut biases) = (vec![0.0; n_groups], vec![0.0; n_groups]);
        quantize_row(bits, row, &mut codes, &mut scales, &mut biases);
        let mut back = vec![0.0; row.len()];
        dequantize_row(bits, &codes, &scales, &biases, &mut back);
        (codes, scales, back)
    }

    fn assert_within_bound(bits: CodeBits, row: &[f32]) {
        let (_, scales, back) = round_trip(bits, row);
        for ((group, back), scale) in row.chunks(GROUP_LEN).zip(back.chunks(GROUP_LEN)).zip(scales) {
            let max_abs = group.iter().fold(0.0f32, |max, number| max.max(number.abs()));
            let bound = error_bound(scale, max_abs);
            for (number, back) in group.iter().zip(back) {
                let number = number.clamp(-MAX_NUMBER, MAX_NUMBER);
                let error = (f64::from(number) - f64::from(*back)).abs();
                assert!(error <= bound, "{bits:?}: {number:e} became {back:e}, bound {bound:e}");
            }
        }
    }

    const BOTH: [CodeBits; 2] = [CodeBits::Four, CodeBits::Eight];

    #[test]
    fn equal_numbers_come_back_exactly() {
        for number in [0.0, -0.0, 1.0, -3.7, f32::MIN_POSITIVE, 1e-45, 2e38, -65504.0f32] {
            let number = number.clamp(-MAX_NUMBER, MAX_NUMBER);
            for bits in BOTH {
                assert_eq!(round_trip(bits, &[number; 70]).2, [number; 70]);
            }
        }
    }

    #[test]
    fn minimum_and_maximum_get_the_first_and_the_last_code() {
        let row: Vec<f32> = (0..64).map(|i| i as f32 * 0.37 - 9.0).collect();
        let (codes, _, _) = round_trip(CodeBits::Eight, &row);
        assert_eq!((codes[0], codes[63]), (0, 255));
        let (codes, _, _) = round_trip(CodeBits::Four, &row);
        assert_eq!((codes[0] & 15, codes[31] >> 4), (0, 15));
    }

    #[test]
    fn even_column_is_the_low_half_and_an_odd_row_leaves_zero() {
        let (codes, _, back) = round_trip(CodeBits::Four, &[0.0, 15.0, 3.0]);
        assert_eq!(codes, [0xf0, 0x03]);
        assert_eq!(back, [0.0, 15.0, 3.0]);
    }

    #[test]
    fn ranges_that_overflow_stay_finite_and_bounded() {
        for row in [[f32::MAX, f32::MIN], [f32::MAX, 0.0], [3e38, f32::MAX], [f32::MIN, -1e30]] {
            for bits in BOTH {
                assert!(round_trip(bits, &row).2.iter().all(|number| number.is_finite()));
                assert_within_bound(bits, &row);
            }
        }
    }

    #[test]
    fn a_nan_or_infinity_turns_its_group_into_nan_and_no_other() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for (at, bits) in [(0, CodeBits::Four), (63, CodeBits::Eight), (17, CodeBits::Eight)] {
                let mut row = [1.5; 130];
                row[at] = bad;
                let (codes, _, back) = round_trip(bits, &row);
                assert!(back[..GROUP_LEN].iter().all(|number| number.is_nan()));
                assert!(
                    codes[..bits.codes_bytes(GROUP_LEN)].iter().all(|code| *code == 0),
                    "the same bytes everywhere"
                );
                assert_eq!(back[GROUP_LEN..], [1.5; 66]);
            }
        }
    }

    fn numbers() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => -10.0..10.0f32,
            1 => prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL,
            1 => Just(0.0f32),
        ]
    }

    /// Rows of one magnitude, so that a bound relative to the maximum is meaningful for every element.
    fn rows() -> impl Strategy<Value = Vec<f32>> {
        (prop::collection::vec(numbers(), 1..200), -140..120i32, -2.0..2.0f32).prop_map(
            |(row, exp, shift)| {
                let factor = 2.0f64.powi(exp);
                row.iter()
                    .map(|number| ((f64::from(*number) + f64::from(shift) * 1e4) * factor) as f32)
                    .collect()
            },
        )
    }

    fn finite(row: &[f32]) -> bool {
        row.iter().all(|number| number.is_finite())
    }

    proptest! {
        #[test]
        fn error_is_within_the_bound(row in rows(), other in prop::collection::vec(numbers(), 1..200)) {
            for row in [row, other] {
                prop_assume!(finite(&row));
                assert_within_bound(CodeBits::Four, &row);
                assert_within_bound(CodeBits::Eight, &row);
            }
        }

        #[test]
        fn groups_do_not_depend_on_each_other(row in prop::collection::vec(numbers(), 65..128)) {
            let (codes, scales, _) = round_trip(CodeBits::Eight, &row);
            let (alone, scale, _) = round_trip(CodeBits::Eight, &row[GROUP_LEN..]);
            prop_assert_eq!(&codes[GROUP_LEN..], alone);
            prop_assert_eq!(scales[1].to_bits(), scale[0].to_bits());
        }

        #[test]
        fn codes_are_the_nearest_steps(row in prop::collection::vec(-100.0..100.0f32, 1..64)) {
            let (codes, scales, _) = round_trip(CodeBits::Eight, &row);
            let low = row.iter().copied().fold(f32::INFINITY, f32::min);
            for (number, code) in row.iter().zip(codes) {
                let steps = (f64::from(*number) - f64::from(low)) / f64::from(scales[0]);
                prop_assert!((steps - f64::from(code)).abs() <= 0.5001, "{} is not {}", steps, code);
            }
        }
    }
}
