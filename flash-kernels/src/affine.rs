//! MLX's affine quantization, as `mlx/backend/cpu/quantized.cpp` (MLX 0.32) defines it.
//!
//! Values are grouped along the last axis; each group has one scale and one bias, and each value a code of 2 to 8 bits:
//! `value = scale · code + bias`. Codes are packed without gaps, from the lowest bit of each byte up.

use crate::error::{KernelError, check_len};
use crate::float::FloatType;

/// The smallest scale MLX gives a group; it keeps the division by the scale finite if all values are equal.
const SCALE_MIN: f32 = 1e-7;

/// Codes packed at a time: eight codes of any width fill whole bytes.
const CODES: usize = 8;

/// An affine quantization format: code width and group size.
///
/// A row of `n` values is stored as
/// - `codes`: `n · bits / 8` bytes,
/// - `scales` and `biases`: `n / group_size` values of one [`FloatType`] each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Affine {
    bits: u32,
    group_size: usize,
}

impl Affine {
    /// Returns the format with codes of `bits` (2, 3, 4, 5, 6 or 8) and groups of `group_size` (32, 64 or 128) values.
    ///
    /// # Errors
    /// [`KernelError::Bits`] or [`KernelError::GroupSize`] for unsupported numbers.
    pub const fn new(bits: u32, group_size: usize) -> Result<Self, KernelError> {
        if !matches!(bits, 2..=6 | 8) {
            return Err(KernelError::Bits { bits });
        }
        if !matches!(group_size, 32 | 64 | 128) {
            return Err(KernelError::GroupSize { group_size });
        }
        Ok(Self { bits, group_size })
    }

    /// Returns the bits per code.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Returns the number of values that share a scale and a bias.
    pub const fn group_size(self) -> usize {
        self.group_size
    }

    /// Returns the largest code, `2^bits − 1`.
    pub const fn code_max(self) -> u8 {
        (u8::MAX as u32 >> (8 - self.bits)) as u8
    }

    /// Returns the bytes that the codes of `n_values` values take; `n_values` is a multiple of the group size.
    pub const fn codes_bytes(self, n_values: usize) -> usize {
        n_values / CODES * self.bits as usize
    }

    /// Packs `codes`, `[n]` with one code per byte, into `out`.
    ///
    /// Bits of a code beyond [`bits`](Self::bits) are dropped.
    ///
    /// # Errors
    /// [`KernelError::PartialGroup`] if `codes` is not whole groups, [`KernelError::SliceLen`] if `out` does not have
    /// [`codes_bytes`](Self::codes_bytes) bytes.
    pub fn pack(self, codes: &[u8], out: &mut [u8]) -> Result<(), KernelError> {
        self.check_groups(codes.len())?;
        check_len("codes", self.codes_bytes(codes.len()), out.len())?;
        for (out, codes) in out.chunks_exact_mut(self.bits as usize).zip(codes.as_chunks().0) {
            self.pack_codes(*codes, out);
        }
        Ok(())
    }

    /// Unpacks `codes` into `out`, `[n]` with one code per byte: the inverse of [`pack`](Self::pack).
    ///
    /// # Errors
    /// Same as [`pack`](Self::pack), with the roles of the slices exchanged.
    pub fn unpack(self, codes: &[u8], out: &mut [u8]) -> Result<(), KernelError> {
        self.check_groups(out.len())?;
        check_len("codes", self.codes_bytes(out.len()), codes.len())?;
        for (out, codes) in out.as_chunks_mut().0.iter_mut().zip(codes.chunks_exact(self.bits as usize)) {
            *out = self.unpack_codes(codes);
        }
        Ok(())
    }

    /// Dequantizes one row, or several contiguous rows, into `out`: `[n]`.
    ///
    /// Each value is `scale · code`, rounded to `f32`, plus the bias, rounded to `f32`; never a fused multiply-add.
    /// `mx.dequantize` computes the same for `f32` scales.
    ///
    /// # Errors
    /// [`KernelError::PartialGroup`] if `out` is not whole groups, [`KernelError::SliceLen`] if the length of another
    /// slice does not fit `out`.
    pub fn dequantize_row(
        self,
        float: FloatType,
        codes: &[u8],
        scales: &[u8],
        biases: &[u8],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        self.check_row(out.len(), float, codes.len(), scales.len(), biases.len())?;
        let group_codes_bytes = self.codes_bytes(self.group_size);
        let groups = out.chunks_exact_mut(self.group_size);
        for (idx, (values, codes)) in groups.zip(codes.chunks_exact(group_codes_bytes)).enumerate() {
            let (scale, bias) = (float.get(scales, idx), float.get(biases, idx));
            let value = |code: u8| scale * f32::from(code) + bias;
            for (out, codes) in
                values.as_chunks_mut().0.iter_mut().zip(codes.chunks_exact(self.bits as usize))
            {
                *out = self.unpack_codes(codes).map(value);
            }
        }
        Ok(())
    }

    /// Quantizes `values`, `[n]`: one row, or several contiguous rows.
    ///
    /// Equals `mx.quantize(values.astype(float), group_size, bits)` of MLX's CPU backend bit for bit if every value is
    /// representable in `float`. The end of the range farther from zero is represented exactly and zero has a code of
    /// its own, so the error is at most `|scale|` at the other end and `|scale| / 2` elsewhere, plus the rounding of
    /// scale and bias to `float`.
    ///
    /// # Errors
    /// [`KernelError::PartialGroup`], [`KernelError::SliceLen`], or [`KernelError::OutOfRange`] for a value that is not
    /// finite or exceeds [`FloatType::max`]; the groups before that value have then been written.
    pub fn quantize_row(
        self,
        float: FloatType,
        values: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
        biases: &mut [u8],
    ) -> Result<(), KernelError> {
        self.check_row(values.len(), float, codes.len(), scales.len(), biases.len())?;
        let group_codes_bytes = self.codes_bytes(self.group_size);
        let groups = values.chunks_exact(self.group_size);
        for (idx, (values, codes)) in groups.zip(codes.chunks_exact_mut(group_codes_bytes)).enumerate() {
            // The comparison is false for NaN.
            let in_range = |value: &f32| value.abs() <= float.max();
            if let Some(at) = values.iter().position(|value| !in_range(value)) {
                return Err(KernelError::OutOfRange {
                    value_idx: idx * self.group_size + at,
                    value: values[at].to_string(),
                });
            }
            let (scale, bias) = self.fit(values);
            let code_max = f32::from(self.code_max());
            // Finite by the check above and clamped to a code, so the cast neither saturates nor truncates.
            let code = |value: f32| ((value - bias) / scale).round_ties_even().clamp(0.0, code_max) as u8;
            for (out, values) in codes.chunks_exact_mut(self.bits as usize).zip(values.as_chunks().0) {
                self.pack_codes(values.map(code), out);
            }
            float.set(scales, idx, scale);
            float.set(biases, idx, bias);
        }
        Ok(())
    }

    /// Packs [`CODES`] codes into `bits` bytes.
    #[inline(always)]
    fn pack_codes(self, codes: [u8; CODES], out: &mut [u8]) {
        match self.bits {
            8 => out.copy_from_slice(&codes),
            bits => {
                let kept = codes.map(|code| u64::from(code & self.code_max()));
                let word = kept.iter().rev().fold(0, |word, code| word << bits | code);
                out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
            }
        }
    }

    /// Unpacks [`CODES`] codes.
    #[inline(always)]
    fn unpack_codes(self, packed: &[u8]) -> [u8; CODES] {
        let mut bytes = [0; CODES];
        bytes[..packed.len()].copy_from_slice(packed);
        let word = u64::from_le_bytes(bytes);
        std::array::from_fn(|idx| (word >> (idx as u32 * self.bits)) as u8 & self.code_max())
    }

    /// Returns the scale and bias of one group of finite values.
    ///
    /// The bias is the end of the range farther from zero (so the scale is negative if that is the upper end);
    /// the scale is then stretched so that zero falls on a whole code.
    fn fit(self, values: &[f32]) -> (f32, f32) {
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        for &value in values {
            max = if max < value { value } else { max };
            min = if value < min { value } else { min };
        }
        let size = ((max - min) / f32::from(self.code_max())).max(SCALE_MIN);
        let (scale, edge) = if min.abs() > max.abs() { (size, min) } else { (-size, max) };
        let zero_code = (edge / scale).round_ties_even();
        if zero_code == 0.0 { (scale, 0.0) } else { (edge / zero_code, edge) }
    }

    fn check_groups(self, n_values: usize) -> Result<(), KernelError> {
        if n_values.is_multiple_of(self.group_size) {
            Ok(())
        } else {
            Err(KernelError::PartialGroup { n_values, group_size: self.group_size })
        }
    }

    fn check_row(
        self,
        n_values: usize,
        float: FloatType,
        codes_len: usize,
        scales_len: usize,
        biases_len: usize,
    ) -> Result<(), KernelError> {
        self.check_groups(n_values)?;
        let floats_bytes = n_values / self.group_size * float.size_bytes();
        check_len("codes", self.codes_bytes(n_values), codes_len)?;
        check_len("scales", floats_bytes, scales_len)?;
        check_len("biases", floats_bytes, biases_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_widths_and_group_lengths_are_refused() {
        for bits in [0, 1, 7, 9, u32::MAX] {
            assert_eq!(Affine::new(bits, 32), Err(KernelError::Bits { bits }));
        }
        for group_size in [0, 1, 16, 33, 256, usize::MAX] {
            assert_eq!(Affine::new(4, group_size), Err(KernelError::GroupSize { group_size }));
        }
    }

    #[test]
    fn codes_fill_words_from_the_lowest_bit_up() {
        let codes: Vec<u8> = (0..32).map(|i| i % 16).collect();
        let mut packed = [0; 16];
        Affine::new(4, 32).unwrap().pack(&codes, &mut packed).unwrap();
        let words: Vec<u32> = packed.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        assert_eq!(words, [0x7654_3210, 0xFEDC_BA98, 0x7654_3210, 0xFEDC_BA98]);
    }

    #[test]
    fn slices_that_do_not_fit_the_row_are_named() {
        let affine = Affine::new(4, 32).unwrap();
        let f16 = FloatType::F16;
        let fails = |values: usize, codes: usize, scales: usize, biases: usize| {
            let (codes, scales, biases) = (vec![0; codes], vec![0; scales], vec![0; biases]);
            affine.dequantize_row(f16, &codes, &scales, &biases, &mut vec![0.0; values]).unwrap_err()
        };
        let slice_of = |err| match err {
            KernelError::SliceLen { slice, .. } => slice,
            other => panic!("{other}"),
        };
        assert!(matches!(fails(33, 16, 2, 2), KernelError::PartialGroup { n_values: 33, .. }));
        assert_eq!(slice_of(fails(32, 15, 2, 2)), "codes");
        assert_eq!(slice_of(fails(32, 16, 4, 2)), "scales");
        assert_eq!(slice_of(fails(32, 16, 2, 1)), "biases");
        assert!(affine.pack(&[0; 31], &mut [0; 16]).is_err());
        assert!(affine.unpack(&[0; 15], &mut [0; 32]).is_err());
    }

    #[test]
    fn values_that_no_scale_can_reach_are_refused_with_their_place() {
        let affine = Affine::new(8, 32).unwrap();
        let of = |float: FloatType, bad: f32| {
            let mut row = [0.5; 64];
            row[40] = bad;
            let (mut codes, mut scales, mut biases) = ([0; 64], [0; 8], [0; 8]);
            let floats_bytes = 2 * float.size_bytes();
            let (scales, biases) = (&mut scales[..floats_bytes], &mut biases[..floats_bytes]);
            affine.quantize_row(float, &row, &mut codes, scales, biases)
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let err = of(FloatType::F32, bad).unwrap_err();
            let value = bad.to_string();
            assert_eq!(err, KernelError::OutOfRange { value_idx: 40, value });
        }
        assert!(of(FloatType::F16, 65504.0).is_ok());
        assert!(of(FloatType::F16, 65505.0).is_err());
        assert!(of(FloatType::F32, f32::MAX / 2.0).is_ok());
        assert!(of(FloatType::BF16, f32::MAX / 2.0).is_ok());
    }
}
