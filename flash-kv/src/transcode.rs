//! Pages from one format into another.

mod vectors;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::layout::{HalfLayout, PageLayout};
use crate::quant::{GROUP_LEN, dequantize_group, padded, quantize_group, store_codes};
use crate::{KvError, PageFormat};

/// Rounds numbers to half precision. Infinities and NaN stay what they are.
///
/// # Errors
/// [`KvError::HalfRange`] if a finite number is too great: beyond ±65504, the greatest, by half a step or more. What `halves`
/// holds is not specified then.
///
/// # Panics
/// If lengths differ.
pub fn to_half(numbers: &[f32], halves: &mut [f16]) -> Result<(), KvError> {
    assert_eq!(numbers.len(), halves.len(), "a half for each number");
    halves.convert_from_f32_slice(numbers);
    match too_great(numbers, halves) {
        None => Ok(()),
        Some(number) => Err(KvError::HalfRange { number }),
    }
}

/// The first finite number that became an infinity.
fn too_great(numbers: &[f32], halves: &[f16]) -> Option<f32> {
    // All are looked at, so that the compiler makes vectors of it: there is none nearly always.
    let is_too_great = |(number, half): (&f32, &f16)| number.is_finite() & half.is_infinite();
    let any = numbers.iter().zip(halves).fold(false, |any, pair| any | is_too_great(pair));
    let find = || numbers.iter().zip(halves).find(|pair| is_too_great(*pair)).map(|(number, _)| *number);
    if any { find() } else { None }
}

/// Writes the page of the record `source`, laid out as `from`, into `record`, laid out as `to`, and zeroes what is behind
/// it. The head is left alone: see [`seal`](crate::seal).
///
/// Rows pass through `f32`: to a quantised format within [`error_bound`](crate::error_bound), to [`PageFormat::F16`] as
/// [`to_half`] rounds. The same format is copied.
///
/// # Errors
/// [`KvError::HalfRange`] if a finite number is too great for half precision; the record is not to be used then.
///
/// # Panics
/// If the layouts have other heads, or the records are not as long as their layouts say.
pub fn transcode(
    from: &PageLayout,
    source: &[u8],
    to: &PageLayout,
    record: &mut [u8],
) -> Result<(), KvError> {
    assert_eq!((from.kv_heads(), from.head_dim()), (to.kv_heads(), to.head_dim()), "heads of a page");
    assert_eq!(from.halves(), to.halves(), "what is kept of a token");
    assert_eq!(source.len(), from.record_bytes(), "length of the record to read");
    assert_eq!(record.len(), to.record_bytes(), "length of the record to write");
    if from == to {
        let payload = to.keys().codes.start..to.payload_end();
        record[payload.clone()].copy_from_slice(&source[payload]);
    } else if let Some(number) = vectors::rewrite(from, source, to, record) {
        return Err(KvError::HalfRange { number });
    }
    record[to.payload_end()..].fill(0);
    Ok(())
}

/// The number that half precision stands for, exactly, without a branch: a loop over it becomes vectors on every instruction set.
#[inline(always)]
fn widen(half: u16) -> f32 {
    /// What the exponents of both formats differ by: 2¹¹².
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    /// The least number whose exponent is one of no number in half precision.
    const TOO_GREAT: f32 = f32::from_bits((127 + 16) << 23);
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * REBIAS;
    let exponent = if magnitude >= TOO_GREAT { 0xff << 23 } else { 0 };
    f32::from_bits(magnitude.to_bits() | exponent | (u32::from(half & 0x8000) << 16))
}

/// Writes keys and values anew, a group at a time. Returns a number that is too great for the new format, if there is one.
#[inline(always)]
fn rewrite(from: &PageLayout, source: &[u8], to: &PageLayout, record: &mut [u8]) -> Option<f32> {
    let mut found = None;
    for (from_half, to_half) in from.stored().zip(to.stored()) {
        let (source, mut sink) = (Rows::new(from, from_half, source), Sink::new(to, to_half, record));
        for row in 0..from.n_rows() {
            for start in (0..from.head_dim()).step_by(GROUP_LEN) {
                let len = GROUP_LEN.min(from.head_dim() - start);
                let mut numbers = [0.0; GROUP_LEN];
                source.read(row, start, &mut numbers[..len]);
                found = found.or(sink.write(row, start, &mut numbers, len));
            }
        }
    }
    found
}

/// Where a group lies: its first code byte, and which scale is its own.
struct Place {
    format: PageFormat,
    row_bytes: usize,
    n_groups: usize,
}

impl Place {
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

/// Keys, or values, to read.
struct Rows<'a> {
    place: Place,
    codes: &'a [u8],
    scales: &'a [[u8; 4]],
    biases: &'a [[u8; 4]],
}

impl<'a> Rows<'a> {
    fn new(layout: &PageLayout, half: &HalfLayout, record: &'a [u8]) -> Self {
        Self {
            place: Place::new(layout),
            codes: &record[half.codes.clone()],
            scales: record[half.scales.clone()].as_chunks().0,
            biases: record[half.biases.clone()].as_chunks().0,
        }
    }

    /// Reads the numbers of a group; its first column is `start`.
    #[inline(always)]
    fn read(&self, row: usize, start: usize, numbers: &mut [f32]) {
        let codes = &self.codes[self.place.code_start(row, start)..];
        match self.place.format.code_bits() {
            Some(bits) => {
                let group = self.place.group(row, start);
                let number = |bytes: &[[u8; 4]]| f32::from_le_bytes(bytes[group]);
                dequantize_group(codes, bits, number(self.scales), number(self.biases), numbers);
            }
            None if self.place.format == PageFormat::F16 => {
                for (number, bytes) in numbers.iter_mut().zip(codes.as_chunks().0) {
                    *number = widen(u16::from_le_bytes(*bytes));
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

/// Keys, or values, to write.
struct Sink<'a> {
    place: Place,
    codes: &'a mut [u8],
    scales: &'a mut [[u8; 4]],
    biases: &'a mut [[u8; 4]],
}

impl<'a> Sink<'a> {
    fn new(layout: &PageLayout, half: &HalfLayout, record: &'a mut [u8]) -> Self {
        let parts = [half.codes.clone(), half.scales.clone(), half.biases.clone()];
        // They lie end to end: a part may be empty, which `get_disjoint_mut` would take for an overlap at its neighbour.
        let (codes, rest) = record[parts[0].start..parts[2].end].split_at_mut(parts[0].len());
        let (scales, biases) = rest.split_at_mut(parts[1].len());
        Self {
            place: Place::new(layout),
            codes,
            scales: scales.as_chunks_mut().0,
            biases: biases.as_chunks_mut().0,
        }
    }

    /// Writes the first `len` numbers as a group; its first column is `start`. Returns one that is too great, if there is one.
    #[inline(always)]
    fn write(&mut self, row: usize, start: usize, numbers: &mut [f32; GROUP_LEN], len: usize) -> Option<f32> {
        let codes = &mut self.codes[self.place.code_start(row, start)..];
        match self.place.format.code_bits() {
            Some(bits) => {
                if len < GROUP_LEN {
                    *numbers = padded(&numbers[..len]);
                }
                let quantized = quantize_group(numbers, len, bits);
                store_codes(&quantized.codes, bits, &mut codes[..bits.codes_bytes(len)]);
                let group = self.place.group(row, start);
                self.scales[group] = quantized.scale.to_le_bytes();
                self.biases[group] = quantized.bias.to_le_bytes();
            }
            None if self.place.format == PageFormat::F16 => {
                let mut halves = [f16::ZERO; GROUP_LEN];
                halves[..len].convert_from_f32_slice(&numbers[..len]);
                for (bytes, half) in codes.as_chunks_mut().0.iter_mut().zip(&halves[..len]) {
                    *bytes = half.to_le_bytes();
                }
                return too_great(&numbers[..len], &halves[..len]);
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
            let (ours, half) = (widen(bits), f16::from_bits(bits));
            if half.is_nan() {
                assert!(ours.is_nan(), "{bits:04x}");
            } else {
                assert_eq!(ours.to_bits(), half.to_f32_const().to_bits(), "{bits:04x}");
            }
        }
    }
}
