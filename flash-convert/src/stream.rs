//! One parameter from GGUF to MLX, a chunk of values at a time.

use flash_kernels::{Affine, FloatType};

use crate::architecture::Source;
use crate::error::ConvertError;
use crate::gguf::{GgufFile, RepackError};
use crate::layout::Parameter;
use crate::scratch::{Beyond, CHUNK_VALUES, Scratch, Sink};
use crate::target::{Becomes, float_name};

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
                    self.dequantize(&chunk, float)?;
                    let bytes = self.encode(len, float);
                    sink(0, &self.out[..bytes])?;
                }
                Becomes::Repacked(affine, float) => {
                    self.repack(&chunk, affine, float)?;
                    self.put_affine(len, affine, float, sink)?;
                }
                Becomes::Quantized(affine, float) => {
                    self.dequantize(&chunk, float)?;
                    self.quantize(len, affine, float).map_err(|beyond| chunk.beyond(&beyond))?;
                    self.put_affine(len, affine, float, sink)?;
                }
            }
            first += len as u64;
        }
        Ok(())
    }

    /// Dequantises the chunk and rounds it to `float`.
    fn dequantize(&mut self, chunk: &Chunk<'_>, float: FloatType) -> Result<(), ConvertError> {
        let format = chunk.source.format;
        let stored = &self.stored[..format.bytes(chunk.len as u64) as usize];
        let values = &mut self.values[..chunk.len];
        format.dequantize(stored, values);
        if chunk.source.is_one_greater {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        self.round(chunk.len, float).map_err(|beyond| chunk.beyond(&beyond))
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
                    chunk.beyond(&Beyond { value_idx: group_idx * affine.group_size(), float }).into()
                }
            })
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
    fn beyond(&self, beyond: &Beyond) -> ConvertError {
        ConvertError::NotFinite {
            path: self.gguf.path().to_owned(),
            tensor: self.source.tensor.name.clone(),
            value_idx: self.first + beyond.value_idx as u64,
            float: float_name(beyond.float),
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
