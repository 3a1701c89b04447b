use half::{bf16, f16};

use crate::error::{KernelError, check_len};

/// A stored floating-point type, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl FloatType {
    /// Returns the bytes of one stored value.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Returns the largest magnitude that can be quantized with scales of this type: the largest finite value of f16;
    /// for the types of wider range half of the largest `f32`, so that a difference of two values is finite as well.
    pub const fn max(self) -> f32 {
        match self {
            Self::F16 => f16::MAX.to_f32_const(),
            Self::F32 | Self::BF16 => f32::MAX / 2.0,
        }
    }

    /// Rounds `value` to the nearest one that this type can hold (ties to even; out of range becomes infinite).
    #[inline]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Decodes `out.len()` stored values. Exact: every value of every type is an `f32`.
    ///
    /// # Errors
    /// [`KernelError::SliceLen`] unless `bytes` holds exactly `out.len()` values.
    pub fn decode_into(self, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
        check_len("floats", out.len() * self.size_bytes(), bytes.len())?;
        match self {
            Self::F32 => decode(bytes, out, f32::from_le_bytes),
            Self::F16 => decode(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        }
        Ok(())
    }

    /// Encodes `values`, each rounded as [`round`](Self::round) does.
    ///
    /// # Errors
    /// [`KernelError::SliceLen`] unless `out` has exactly the room of `values.len()` values.
    pub fn encode_into(self, values: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
        check_len("floats", values.len() * self.size_bytes(), out.len())?;
        match self {
            Self::F32 => encode(values, out, f32::to_le_bytes),
            Self::F16 => encode(values, out, |v| f16::from_f32(v).to_le_bytes()),
            Self::BF16 => encode(values, out, |v| bf16::from_f32(v).to_le_bytes()),
        }
        Ok(())
    }

    /// Decodes the value at `idx` of a slice of stored values; the caller checked the slice's length.
    pub(crate) fn get(self, bytes: &[u8], idx: usize) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes(bytes.as_chunks().0[idx]),
            Self::F16 => f16::from_le_bytes(bytes.as_chunks().0[idx]).to_f32(),
            Self::BF16 => bf16::from_le_bytes(bytes.as_chunks().0[idx]).to_f32(),
        }
    }

    /// Encodes `value` at `idx` of a slice of stored values; the caller checked the slice's length.
    pub(crate) fn set(self, bytes: &mut [u8], idx: usize, value: f32) {
        match self {
            Self::F32 => bytes.as_chunks_mut().0[idx] = value.to_le_bytes(),
            Self::F16 => bytes.as_chunks_mut().0[idx] = f16::from_f32(value).to_le_bytes(),
            Self::BF16 => bytes.as_chunks_mut().0[idx] = bf16::from_f32(value).to_le_bytes(),
        }
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn([u8; N]) -> f32) {
    for (value, stored) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = one(*stored);
    }
}

fn encode<const N: usize>(values: &[f32], out: &mut [u8], one: impl Fn(f32) -> [u8; N]) {
    for (stored, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
        *stored = one(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::BF16];

    #[test]
    fn decoding_what_was_encoded_gives_the_rounded_values_at_any_alignment() {
        let values = [0.0, -0.0, 1.0, -2.5, 1.0 / 3.0, 65504.0, 6e-8, f32::INFINITY];
        for float in ALL {
            let size = float.size_bytes();
            let mut bytes = vec![0xAA; 1 + values.len() * size];
            float.encode_into(&values, &mut bytes[1..]).unwrap();
            let mut back = [0.0; 8];
            float.decode_into(&bytes[1..], &mut back).unwrap();
            for (idx, value) in values.into_iter().enumerate() {
                assert_eq!(back[idx].to_bits(), float.round(value).to_bits());
                assert_eq!(float.get(&bytes[1..], idx).to_bits(), back[idx].to_bits());
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for float in ALL {
            let err = float.decode_into(&[0; 7], &mut [0.0; 2]).unwrap_err();
            let wanted_bytes = 2 * float.size_bytes();
            assert_eq!(err, KernelError::SliceLen { slice: "floats", wanted_bytes, got_bytes: 7 });
            assert!(float.encode_into(&[0.0; 2], &mut [0; 9]).is_err());
        }
    }
}
