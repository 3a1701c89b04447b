//! Conversion of pages between formats.

mod vectors;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::layout::{PageLayout, TensorLayout};
use crate::quant::{GROUP_LEN, dequantize_group, padded, quantize_group, store_codes};
use crate::{KvError, PageFormat};

/// Rounds numbers to half precision. Infinities and NaN are preserved.
///
/// # Errors
/// [`KvError::F16Overflow`] if a finite number overflows: it exceeds the largest half, ±65504, by half a step or more.
/// The contents of `halves` are unspecified then.
///
/// # Panics
/// If lengths differ.
pub fn to_f16(numbers: &[f32], halves: &mut [f16]) -> Result<(), KvError> {
    assert_eq!(numbers.len(), halves.len(), "one half per number");
    halves.convert_from_f32_slice(numbers);
    match find_overflow(numbers, halves) {
        None => Ok(()),
        Some(number) => Err(KvError::F16Overflow { number }),
    }
}

/// Returns the first finite number that became an infinity.
fn find_overflow(numbers: &[f32], halves: &[f16]) -> Option<f32> {
    // The scan has no early exit, so that the compiler vectorizes it: overflow is rare.
    let overflows = |(number, half): (&f32, &f16)| number.is_finite() & half.is_infinite();
    let any = numbers.iter().zip(halves).fold(false, |any, pair| any | overflows(pair));
    let find = || numbers.iter().zip(halves).find(|pair| overflows(*pair)).map(|(number, _)| *number);
    if any { find() } else { None }
}

/// Converts the page of the record `source`, in the layout `from`, into `record`, in the layout `to`, and zeroes the
/// padding. The header is left unchanged: see [`seal`](crate::seal).
///
/// Rows pass through `f32`: into a quantized format within [`error_bound`](crate::error_bound), into
/// [`PageFormat::F16`] by the rounding of [`to_f16`]. Pages of equal layout are copied.
///
/// # Errors
/// [`KvError::F16Overflow`] if a finite number overflows half precision; the record must not be used then.
///
/// # Panics
/// If the layouts differ in heads or stored vectors, or the records do not have the length of their layouts.
pub fn transcode(
    from: &PageLayout,
    source: &[u8],
    to: &PageLayout,
    record: &mut [u8],
) -> Result<(), KvError> {
    assert_eq!((from.kv_heads(), from.head_dim()), (to.kv_heads(), to.head_dim()), "heads of a page");
    assert_eq!(from.parts(), to.parts(), "the vectors stored per token");
    assert_eq!(source.len(), from.record_bytes(), "length of the record to read");
    assert_eq!(record.len(), to.record_bytes(), "length of the record to write");
    if from == to {
        let payload = to.keys().codes.start..to.payload_end();
        record[payload.clone()].copy_from_slice(&source[payload]);
    } else if let Some(number) = vectors::rewrite(from, source, to, record) {
        return Err(KvError::F16Overflow { number });
    }
    record[to.payload_end()..].fill(0);
    Ok(())
}

/// Converts half precision to `f32` exactly and without a branch, so that loops over it vectorize on every instruction
/// set.
#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    /// Factor between the exponents of both formats: 2¹¹².
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    /// The smallest magnitude that means infinity or NaN in half precision.
    const INFINITE: f32 = f32::from_bits((127 + 16) << 23);
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * REBIAS;
    let exponent = if magnitude >= INFINITE { 0xff << 23 } else { 0 };
    f32::from_bits(magnitude.to_bits() | exponent | (u32::from(half & 0x8000) << 16))
}

/// Converts keys and values, a group at a time. Returns a number that overflows the new format, if there is one.
#[inline(always)]
fn rewrite(from: &PageLayout, source: &[u8], to: &PageLayout, record: &mut [u8]) -> Option<f32> {
    let mut found = None;
    for (from_half, to_f16) in from.stored().zip(to.stored()) {
        let (source, mut writer) =
            (GroupReader::new(from, from_half, source), GroupWriter::new(to, to_f16, record));
        for row in 0..from.n_rows() {
            for start in (0..from.head_dim()).step_by(GROUP_LEN) {
                let len = GROUP_LEN.min(from.head_dim() - start);
                let mut numbers = [0.0; GROUP_LEN];
                source.read(row, start, &mut numbers[..len]);
                found = found.or(writer.write(row, start, &mut numbers, len));
            }
        }
    }
    found
}

/// Locates groups: offset of the first code byte, and index of scale and bias.
struct GroupLocator {
    format: PageFormat,
    row_bytes: usize,
    n_groups: usize,
}

impl GroupLocator {
    fn new(layout: &PageLayout) -> Self {
        Self { format: layout.format(), row_bytes: layout.row_bytes(), n_groups: layout.n_groups() }
    }

    fn code_start(&self, row: usize, start: usize) -> usize {
        row * self.row_bytes + start * self.format.bits() / 8
    }

    fn group(&self, row: usize, start: usize) -> usize {
        row * self.n_groups + start / GROUP_LEN
    }
}

/// Reader of the keys, or of the values, of a record.
struct GroupReader<'a> {
    locator: GroupLocator,
    codes: &'a [u8],
    scales: &'a [[u8; 4]],
    biases: &'a [[u8; 4]],
}

impl<'a> GroupReader<'a> {
    fn new(layout: &PageLayout, half: &TensorLayout, record: &'a [u8]) -> Self {
        Self {
            locator: GroupLocator::new(layout),
            codes: &record[half.codes.clone()],
            scales: record[half.scales.clone()].as_chunks().0,
            biases: record[half.biases.clone()].as_chunks().0,
        }
    }

    /// Reads the elements of the group that starts at column `start`.
    #[inline(always)]
    fn read(&self, row: usize, start: usize, numbers: &mut [f32]) {
        let codes = &self.codes[self.locator.code_start(row, start)..];
        match self.locator.format.code_bits() {
            Some(bits) => {
                let group = self.locator.group(row, start);
                let number = |bytes: &[[u8; 4]]| f32::from_le_bytes(bytes[group]);
                dequantize_group(codes, bits, number(self.scales), number(self.biases), numbers);
            }
            None if self.locator.format == PageFormat::F16 => {
                for (number, bytes) in numbers.iter_mut().zip(codes.as_chunks().0) {
                    *number = f16_to_f32(u16::from_le_bytes(*bytes));
                }
            }
            None => {
                for (number, bytes) in numbers.iter_mut().zip(codes.as_chunks().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
            }
        }
    }
}

/// Writer of the keys, or of the values, of a record.
struct GroupWriter<'a> {
    locator: GroupLocator,
    codes: &'a mut [u8],
    scales: &'a mut [[u8; 4]],
    biases: &'a mut [[u8; 4]],
}

impl<'a> GroupWriter<'a> {
    fn new(layout: &PageLayout, half: &TensorLayout, record: &'a mut [u8]) -> Self {
        let parts = [half.codes.clone(), half.scales.clone(), half.biases.clone()];
        // The parts are contiguous and may be empty; `get_disjoint_mut` would reject an empty range next to its
        // neighbor as an overlap.
        let (codes, rest) = record[parts[0].start..parts[2].end].split_at_mut(parts[0].len());
        let (scales, biases) = rest.split_at_mut(parts[1].len());
        Self {
            locator: GroupLocator::new(layout),
            codes,
            scales: scales.as_chunks_mut().0,
            biases: biases.as_chunks_mut().0,
        }
    }

    /// Writes the first `len` numbers as the group that starts at column `start`. Returns a number that overflows the
    /// format, if there is one.
    #[inline(always)]
    fn write(&mut self, row: usize, start: usize, numbers: &mut [f32; GROUP_LEN], len: usize) -> Option<f32> {
        let codes = &mut self.codes[self.locator.code_start(row, start)..];
        match self.locator.format.code_bits() {
            Some(bits) => {
                if len < GROUP_LEN {
                    *numbers = padded(&numbers[..len]);
                }
                let quantized = quantize_group(numbers, len, bits);
                store_codes(&quantized.codes, bits, &mut codes[..bits.codes_bytes(len)]);
                let group = self.locator.group(row, start);
                self.scales[group] = quantized.scale.to_le_bytes();
                self.biases[group] = quantized.bias.to_le_bytes();
            }
            None if self.locator.format == PageFormat::F16 => {
                let mut halves = [f16::ZERO; GROUP_LEN];
                halves[..len].convert_from_f32_slice(&numbers[..len]);
                for (bytes, half) in codes.as_chunks_mut().0.iter_mut().zip(&halves[..len]) {
                    *bytes = half.to_le_bytes();
                }
                return find_overflow(&numbers[..len], &halves[..len]);
            }
            None => {
                for (bytes, number) in codes.as_chunks_mut().0.iter_mut().zip(&numbers[..len]) {
                    *bytes = number.to_le_bytes();
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, half) = (f16_to_f32(bits), f16::from_bits(bits));
            if half.is_nan() {
                assert!(ours.is_nan(), "{bits:04x}");
            } else {
                assert_eq!(ours.to_bits(), half.to_f32_const().to_bits(), "{bits:04x}");
            }
        }
    }
}
