//! Converts the parameters of a GGUF model, a chunk of values at a time.

use flash_kernels::{Affine, FloatType};

use crate::architecture::Source;
use crate::error::ConvertError;
use crate::gguf::{GgufFile, RepackError};
use crate::layout::Parameter;
use crate::scratch::{CHUNK_VALUES, OutOfRange, Scratch, Sink};
use crate::target::{TensorFormat, float_name};

/// Error of the conversion of a parameter.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// A bias overflows `f16`; the plan must use `f32` scales.
    NeedsWideScales,
    /// Any other failure.
    Failed(ConvertError),
}

impl From<ConvertError> for StreamError {
    fn from(error: ConvertError) -> Self {
        Self::Failed(error)
    }
}

impl Scratch {
    /// Converts `parameter` and writes its tensors to `sink`.
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
                TensorFormat::Copied(_) => sink(0, stored)?,
                TensorFormat::Floats(float) => {
                    self.dequantize(&chunk, float)?;
                    let bytes = self.encode(len, float);
                    sink(0, &self.out[..bytes])?;
                }
                TensorFormat::Repacked(affine, float) => {
                    self.repack(&chunk, affine, float)?;
                    self.write_affine(len, affine, float, sink)?;
                }
                TensorFormat::Quantized(affine, float) => {
                    self.dequantize(&chunk, float)?;
                    self.quantize(len, affine, float).map_err(|error| chunk.not_finite(&error))?;
                    self.write_affine(len, affine, float, sink)?;
                }
            }
            first += len as u64;
        }
        Ok(())
    }

    /// Dequantizes the chunk and rounds it to `float`.
    fn dequantize(&mut self, chunk: &Chunk<'_>, float: FloatType) -> Result<(), ConvertError> {
        let format = chunk.source.format;
        let stored = &self.stored[..format.bytes(chunk.len as u64) as usize];
        let values = &mut self.values[..chunk.len];
        format.dequantize(stored, values);
        if chunk.source.is_offset_by_one {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        self.round(chunk.len, float).map_err(|error| chunk.not_finite(&error))
    }

    /// Repacks the blocks of the chunk into affine codes.
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
                RepackError::BiasOverflowsF16 { .. } => StreamError::NeedsWideScales,
                RepackError::NotFinite { group_idx } => {
                    chunk.not_finite(&OutOfRange { value_idx: group_idx * affine.group_size(), float }).into()
                }
            })
    }
}

/// The range of values that is being converted.
struct Chunk<'a> {
    gguf: &'a GgufFile,
    source: &'a Source,
    first: u64,
    len: usize,
}

impl Chunk<'_> {
    fn not_finite(&self, error: &OutOfRange) -> ConvertError {
        ConvertError::NotFinite {
            path: self.gguf.path().to_owned(),
            tensor: self.source.tensor.name.clone(),
            value_idx: self.first + error.value_idx as u64,
            float: float_name(error.float),
        }
    }
}

/// Reads the stored form of values `first .. first + len` of the MLX parameter: with one read, or row by row if GGUF
/// stores the rows in a different order.
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
