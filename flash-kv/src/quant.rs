//! Affine quantisation of groups of numbers: `value ≈ bias + scale · code`.
//!
//! Of a group, `bias` is the least number, `scale` the difference between the least and the greatest over the number of
//! steps, at least 2⁻¹⁰⁰, and a code the number of steps from the bias, rounded to the nearest. What comes back differs
//! from what went in by at most [`error_bound`].
//!
//! Loops run over arrays of fixed length without branches, so that the compiler makes vectors of them on every
//! instruction set, and each number meets the same operations on all of them: the same codes everywhere.

/// Numbers along `head_dim` that share a scale and a bias. The last group of a row may be shorter.
pub const GROUP_LEN: usize = 64;

/// The least scale: 2⁻¹⁰⁰. It keeps `1 / scale` finite and products out of the subnormals, also if all numbers of a group
/// are equal, and is far below what the least number of half precision, 2⁻²⁴, could tell apart.
const MIN_SCALE: f32 = f32::from_bits((127 - 100) << 23);

/// Numbers beyond ±2¹²⁶ are taken for it: two of them never differ by more than a number can be.
const MAX_NUMBER: f32 = f32::from_bits((127 + 126) << 23);

/// 1.5 · 2²³. Between 2²³ and 2²⁴ numbers are whole, so adding this to a number in `0..2²²` rounds it to the nearest, ties
/// to even, and leaves it in the low bits. `f32::round` is a call on SSE2, and a cast that saturates is three
/// instructions more.
const ROUNDER: f32 = 12_582_912.0;

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeBits {
    /// Codes from 0 to 15, two a byte, the even column in the low half.
    Four,
    /// Codes from 0 to 255, one a byte.
    Eight,
}

impl CodeBits {
    /// Steps between the least and the greatest number of a group.
    pub const fn steps(self) -> u8 {
        match self {
            Self::Four => 15,
            Self::Eight => 255,
        }
    }

    /// Bytes of the codes of `n` numbers.
    pub const fn codes_bytes(self, n: usize) -> usize {
        match self {
            Self::Four => n.div_ceil(2),
            Self::Eight => n,
        }
    }
}

/// The most by which a number that was quantised and dequantised differs from what it was, in exact arithmetic:
/// `scale / 2 + 2⁻²⁰ · |greatest|`, of which the second part is the rounding of `f32`.
///
/// `max_abs` is the greatest magnitude in the group. Numbers beyond ±2¹²⁶ count as ±2¹²⁶. A group that holds an infinity
/// or a NaN comes back as NaN.
pub fn error_bound(scale: f32, max_abs: f32) -> f64 {
    // Relative to exact arithmetic, with u = 2⁻²⁴: 3u of the distance from the bias until a code is rounded, u of that
    // distance for scale · code and u of the result for the sum. Distances are at most twice the greatest magnitude, so
    // that is below 10u, and here are 16u.
    f64::from(scale) / 2.0 + f64::from(max_abs.min(MAX_NUMBER)) / f64::from(1 << 20)
}

/// A group, quantised. Codes past its end are 0.
pub(crate) struct Group {
    pub(crate) scale: f32,
    pub(crate) bias: f32,
    pub(crate) codes: [u8; GROUP_LEN],
}

/// Quantises the first `len` of `numbers`. Those behind must equal one of those before.
#[inline(always)]
pub(crate) fn quantize_group(numbers: &[f32; GROUP_LEN], len: usize, bits: CodeBits) -> Group {
    // Whole numbers in the order of those that they stand for: what is least does not depend on the order of comparisons, so
    // they are compared in vectors, which the compiler may not do with floating-point numbers.
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for number in numbers {
        let key = ordered(number.to_bits());
        low = low.min(key);
        high = high.max(key);
    }
    let [low, high] = [low, high].map(|key| f32::from_bits(ordered(key as u32) as u32));
    let mut codes = [0; GROUP_LEN];
    // What is not finite is beyond all that is.
    if !low.is_finite() || !high.is_finite() {
        return Group { scale: f32::NAN, bias: 0.0, codes };
    }
    let [low, high] = [low, high].map(|number| number.clamp(-MAX_NUMBER, MAX_NUMBER));
    let scale = ((high - low) / f32::from(bits.steps())).max(MIN_SCALE);
    let steps_per_unit = 1.0 / scale;
    for (code, number) in codes.iter_mut().zip(numbers) {
        let number = greater(lesser(*number, high), low);
        *code = ((number - low) * steps_per_unit + ROUNDER).to_bits() as u8;
    }
    codes[len..].fill(0);
    Group { scale, bias: low, codes }
}

/// Turns the bits of a number into a whole number, so that both are ordered alike, and back again. -0 is below 0; what is no
/// number is below or above all others.
#[inline(always)]
fn ordered(bits: u32) -> i32 {
    let bits = bits as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// One instruction, unlike [`f32::min`], which minds NaN.
#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Writes the codes of a group as they are stored; `out` is as long as they are.
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

/// Dequantises up to [`GROUP_LEN`] numbers from codes as they are stored.
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

/// Copies a group into an array; what is behind its end repeats its first number, which changes neither minimum nor
/// maximum.
#[inline]
pub(crate) fn padded(group: &[f32]) -> [f32; GROUP_LEN] {
    let mut numbers = [group[0]; GROUP_LEN];
    numbers[..group.len()].copy_from_slice(group);
    numbers
}

/// Quantises a row.
///
/// `row`: `[head_dim]` · `codes`: [`CodeBits::codes_bytes`] of it · `scales`, `biases`: one for each group of
/// [`GROUP_LEN`], the last of which may be shorter. A group with an infinity or a NaN gets the scale NaN, and so comes
/// back as NaN: it never becomes a number.
///
/// # Panics
/// If lengths do not fit each other.
pub fn quantize_row(bits: CodeBits, row: &[f32], codes: &mut [u8], scales: &mut [f32], biases: &mut [f32]) {
    assert_row(bits, row.len(), codes.len(), scales.len(), biases.len());
    let out = codes.chunks_mut(bits.codes_bytes(GROUP_LEN)).zip(scales).zip(biases);
    for (group, ((codes, scale), bias)) in row.chunks(GROUP_LEN).zip(out) {
        let quantized = quantize_group(&padded(group), group.len(), bits);
        store_codes(&quantized.codes, bits, codes);
        (*scale, *bias) = (quantized.scale, quantized.bias);
    }
}

/// The reverse of [`quantize_row`], up to [`error_bound`].
///
/// # Panics
/// If lengths do not fit each other.
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

    /// Codes, scales and what comes back.
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
    fn least_and_greatest_number_get_the_first_and_the_last_code() {
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
    fn a_number_that_is_none_takes_its_group_with_it_and_no_other() {
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

    /// Rows of one magnitude, where a bound relative to the greatest number says something about all of them.
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
