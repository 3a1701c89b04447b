//! One parameter from GGUF to MLX, a chunk of values at a time.

use flash_kernels::{Affine, FloatType};

use crate::error::ConvertError;
use crate::gguf::{GgufFile, RepackError};
use crate::layout::Parameter;
use crate::llama::Source;
use crate::target::{Becomes, float_name};

/// Values converted at a time: whole blocks and whole groups of every format, and enough that a system call for
/// each chunk costs nothing.
const CHUNK_VALUES: usize = 128 << 10;

/// The most that a value takes, stored or not, in bytes.
const VALUE_BYTES_MAX: usize = 4;

/// The shortest group.
const GROUP_LEN_MIN: usize = 32;

const _: () = assert!(CHUNK_VALUES.is_multiple_of(256));

/// The memory that a conversion works in: all that grows with the model is on disk.
#[derive(Debug)]
pub(crate) struct Scratch {
    stored: Vec<u8>,
    values: Vec<f32>,
    out: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

/// Is given the bytes that follow next in the part of an index.
pub(crate) type Sink<'a> = dyn FnMut(usize, &[u8]) -> Result<(), ConvertError> + 'a;

/// Why a parameter could not be converted.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// A bias that `f16` cannot hold; the plan must ask for `f32`.
    NeedsWideScales,
    /// Anything else.
    Failed(ConvertError),
}

impl From<ConvertError> for StreamError {
    fn from(error: ConvertError) -> Self {
        Self::Failed(error)
    }
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

    /// Converts `parameter` into `sink`.
    pub(crate) fn convert(
        &mut self,
        gguf: &GgufFile,
        parameter: &Parameter,
        sink: &mut Sink<'_>,
    ) -> Result<(), StreamError> {
        let source = &parameter.source;
        let n_values = source.n_values();
        let mut first = 0;
        while first < n_values {
            let len = (n_values - first).min(CHUNK_VALUES as u64) as usize;
            let stored_bytes = source.format.bytes(len as u64) as usize;
            let stored = &mut self.stored[..stored_bytes];
            read_chunk(gguf, source, first, len, stored)?;
            let chunk = Chunk { gguf, source, first, len };
            match parameter.becomes {
                Becomes::Same(_) => sink(0, stored)?,
                Becomes::Floats(float) => {
                    let bytes = self.floats(&chunk, float)?;
                    sink(0, &self.out[..bytes])?;
                }
                Becomes::Repacked(affine, float) => {
                    self.repack(&chunk, affine, float)?;
                    self.put_affine(len, affine, float, sink)?;
                }
                Becomes::Quantized(affine, float) => {
                    self.quantize(&chunk, affine, float)?;
                    self.put_affine(len, affine, float, sink)?;
                }
            }
            first += len as u64;
        }
        Ok(())
    }

    /// Dequantises the chunk and rounds it to `float`.
    fn round(&mut self, chunk: &Chunk<'_>, float: FloatType) -> Result<(), ConvertError> {
        let format = chunk.source.format;
        let stored = &self.stored[..format.bytes(chunk.len as u64) as usize];
        let values = &mut self.values[..chunk.len];
        format.dequantize(stored, values);
        for (idx, value) in values.iter_mut().enumerate() {
            *value = float.round(*value);
            if !value.is_finite() {
                return Err(chunk.not_finite(idx, float));
            }
        }
        Ok(())
    }

    fn floats(&mut self, chunk: &Chunk<'_>, float: FloatType) -> Result<usize, ConvertError> {
        self.round(chunk, float)?;
        let bytes = chunk.len * float.size_bytes();
        float
            .encode_into(&self.values[..chunk.len], &mut self.out[..bytes])
            .expect("a slice of the values' length");
        Ok(bytes)
    }

    fn quantize(&mut self, chunk: &Chunk<'_>, affine: Affine, float: FloatType) -> Result<(), ConvertError> {
        self.round(chunk, float)?;
        let floats_bytes = chunk.len / affine.group_size() * float.size_bytes();
        affine
            .quantize_row(
                float,
                &self.values[..chunk.len],
                &mut self.out[..affine.codes_bytes(chunk.len)],
                &mut self.scales[..floats_bytes],
                &mut self.biases[..floats_bytes],
            )
            .map_err(|error| match error {
                flash_kernels::KernelError::OutOfRange { value_idx, .. } => {
                    chunk.not_finite(value_idx, float)
                }
                other => unreachable!("whole groups of finite values: {other}"),
            })
    }

    fn repack(&mut self, chunk: &Chunk<'_>, affine: Affine, float: FloatType) -> Result<(), StreamError> {
        let format = chunk.source.format;
        let floats_bytes = chunk.len / affine.group_size() * float.size_bytes();
        format
            .repack(
                &self.stored[..format.bytes(chunk.len as u64) as usize],
                float,
                &mut self.out[..affine.codes_bytes(chunk.len)],
                &mut self.scales[..floats_bytes],
                &mut self.biases[..floats_bytes],
            )
            .map_err(|error| match error {
                RepackError::BeyondF16 { .. } => StreamError::NeedsWideScales,
                RepackError::NotFinite { group_idx } => {
                    chunk.not_finite(group_idx * affine.group_size(), float).into()
                }
            })
    }

    fn put_affine(
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

/// Which values are being converted.
struct Chunk<'a> {
    gguf: &'a GgufFile,
    source: &'a Source,
    first: u64,
    len: usize,
}

impl Chunk<'_> {
    fn not_finite(&self, idx: usize, float: FloatType) -> ConvertError {
        ConvertError::NotFinite {
            path: self.gguf.path().to_owned(),
            tensor: self.source.tensor.name.clone(),
            value_idx: self.first + idx as u64,
            float: float_name(float),
        }
    }
}

/// Reads the stored form of values `first .. first + len` of the MLX parameter: in one piece, or row by row where
/// GGUF has the rows in another order.
fn read_chunk(
    gguf: &GgufFile,
    source: &Source,
    first: u64,
    len: usize,
    stored: &mut [u8],
) -> Result<(), ConvertError> {
    let format = source.format;
    if source.interleaved_head_dim.is_none() {
        return gguf.read_at(&source.tensor, format.bytes(first), stored);
    }
    let end = first + len as u64;
    let (mut at, mut rest) = (first, stored);
    while at < end {
        let (row, col) = (at / source.n_cols, at % source.n_cols);
        let n_values = (source.n_cols - col).min(end - at);
        let (piece, left) = rest.split_at_mut(format.bytes(n_values) as usize);
        let from = source.source_row(row) * source.n_cols + col;
        gguf.read_at(&source.tensor, format.bytes(from), piece)?;
        (at, rest) = (at + n_values, left);
    }
    Ok(())
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
