//! Fixed-size working memory of a conversion, which processes one chunk of values at a time.

use flash_kernels::{Affine, FloatType, KernelError};

use crate::error::ConvertError;

/// Values converted at a time: a whole number of blocks and groups of every format, and large enough to make the cost
/// of a system call for each chunk negligible.
pub(crate) const CHUNK_VALUES: usize = 128 << 10;

/// Maximum size of a value in bytes, stored or decoded.
const VALUE_BYTES_MAX: usize = 4;

/// Smallest group size of a quantized format.
const GROUP_LEN_MIN: usize = 32;

const _: () = assert!(CHUNK_VALUES.is_multiple_of(256));

/// Buffers for one chunk of values.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Bytes as read from the source.
    pub(crate) stored: Vec<u8>,
    /// Decoded values.
    pub(crate) values: Vec<f32>,
    /// Encoded values, or codes.
    pub(crate) out: Vec<u8>,
    pub(crate) scales: Vec<u8>,
    pub(crate) biases: Vec<u8>,
}

/// Callback that appends bytes to the tensor of a given index in its group.
pub(crate) type Sink<'a> = dyn FnMut(usize, &[u8]) -> Result<(), ConvertError> + 'a;

/// A value that `float` cannot represent, by its index in the chunk.
#[derive(Debug)]
pub(crate) struct OutOfRange {
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
    pub(crate) fn round(&mut self, len: usize, float: FloatType) -> Result<(), OutOfRange> {
        for (value_idx, value) in self.values[..len].iter_mut().enumerate() {
            *value = float.round(*value);
            if !value.is_finite() {
                return Err(OutOfRange { value_idx, float });
            }
        }
        Ok(())
    }

    /// Encodes the first `len` values into `out` and returns their size in bytes.
    pub(crate) fn encode(&mut self, len: usize, float: FloatType) -> usize {
        let bytes = len * float.size_bytes();
        float
            .encode_into(&self.values[..len], &mut self.out[..bytes])
            .expect("a slice of the values' length");
        bytes
    }

    /// Quantizes the first `len` values, which must already be rounded to `float`.
    pub(crate) fn quantize(
        &mut self,
        len: usize,
        affine: Affine,
        float: FloatType,
    ) -> Result<(), OutOfRange> {
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
                KernelError::OutOfRange { value_idx, .. } => OutOfRange { value_idx, float },
                other => unreachable!("whole groups of finite values: {other}"),
            })
    }

    /// Writes the codes, scales and biases of `len` values to `sink`.
    pub(crate) fn write_affine(
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
