//! The memory that a conversion works in, a chunk of values at a time: all that grows with the model is on disk.

use flash_kernels::{Affine, FloatType, KernelError};

use crate::error::ConvertError;

/// Values converted at a time: whole blocks and whole groups of every format, and enough that a system call for
/// each chunk costs nothing.
pub(crate) const CHUNK_VALUES: usize = 128 << 10;

/// The most that a value takes, stored or not, in bytes.
const VALUE_BYTES_MAX: usize = 4;

/// The shortest group.
const GROUP_LEN_MIN: usize = 32;

const _: () = assert!(CHUNK_VALUES.is_multiple_of(256));

#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) stored: Vec<u8>,
    pub(crate) values: Vec<f32>,
    pub(crate) out: Vec<u8>,
    pub(crate) scales: Vec<u8>,
    pub(crate) biases: Vec<u8>,
}

/// Is given the bytes that follow next in the part of an index.
pub(crate) type Sink<'a> = dyn FnMut(usize, &[u8]) -> Result<(), ConvertError> + 'a;

/// A value that a type cannot hold, by its place in the chunk.
#[derive(Debug)]
pub(crate) struct Beyond {
    pub(crate) value_idx: usize,
    pub(crate) float: FloatType,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let scales_bytes = CHUNK_VALUES / GROUP_LEN_MIN * VALUE_BYTES_MAX;
        Self {
            stored: vec![0; CHUNK_VALUES * VALUE_BYTES_MAX],
            values: vec![0.0; CHUNK_VALUES],
            out: vec![0; CHUNK_VALUES * VALUE_BYTES_MAX],
            scales: vec![0; scales_bytes],
            biases: vec![0; scales_bytes],
        }
    }

    /// Rounds the first `len` values to `float`.
    pub(crate) fn round(&mut self, len: usize, float: FloatType) -> Result<(), Beyond> {
        for (value_idx, value) in self.values[..len].iter_mut().enumerate() {
            *value = float.round(*value);
            if !value.is_finite() {
                return Err(Beyond { value_idx, float });
            }
        }
        Ok(())
    }

    /// Encodes the first `len` values; returns how many bytes that makes.
    pub(crate) fn encode(&mut self, len: usize, float: FloatType) -> usize {
        let bytes = len * float.size_bytes();
        float
            .encode_into(&self.values[..len], &mut self.out[..bytes])
            .expect("a slice of the values' length");
        bytes
    }

    /// Quantises the first `len` values, which are rounded to `float`.
    pub(crate) fn quantize(&mut self, len: usize, affine: Affine, float: FloatType) -> Result<(), Beyond> {
        let floats_bytes = len / affine.group_size() * float.size_bytes();
        affine
            .quantize_row(
                float,
                &self.values[..len],
                &mut self.out[..affine.codes_bytes(len)],
                &mut self.scales[..floats_bytes],
                &mut self.biases[..floats_bytes],
            )
            .map_err(|error| match error {
                KernelError::OutOfRange { value_idx, .. } => Beyond { value_idx, float },
                other => unreachable!("whole groups of finite values: {other}"),
            })
    }

    /// Hands over codes, scales and biases of `len` values.
    pub(crate) fn put_affine(
        &self,
        len: usize,
        affine: Affine,
        float: FloatType,
        sink: &mut Sink<'_>,
    ) -> Result<(), ConvertError> {
        let floats_bytes = len / affine.group_size() * float.size_bytes();
        sink(0, &self.out[..affine.codes_bytes(len)])?;
        sink(1, &self.scales[..floats_bytes])?;
        sink(2, &self.biases[..floats_bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_working_memory_is_less_than_two_mib_whatever_the_model() {
        let scratch = Scratch::new();
        let bytes = scratch.stored.len()
            + scratch.values.len() * size_of::<f32>()
            + scratch.out.len()
            + scratch.scales.len()
            + scratch.biases.len();
        assert!(bytes < 2 << 20, "{bytes} B");
    }
}
