//! The embedding table, read by row: it need not be resident.

use flash_io::{Dtype, IoError, Reader, ShardIdx, Span, Tensor};
use flash_kernels::{Affine, FloatType, Mx};
use mlx_rs::Array;

use crate::ModelError;
use crate::checkpoint::{Checkpoint, TensorKind};
use crate::config::QuantizedMode;
use crate::models::Architecture;

/// Where the rows of the table lie, and how they are stored.
#[derive(Debug)]
pub(crate) struct Embedding {
    hidden_size: usize,
    vocab_size: usize,
    /// What each number is multiplied by.
    scale: f32,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Dense { values: Rows, float: FloatType },
    Affine { codes: Rows, scales: Rows, biases: Rows, float: FloatType, format: Affine },
    Mx { codes: Rows, scales: Rows, format: Mx },
}

/// The rows of one tensor.
#[derive(Debug)]
struct Rows {
    name: String,
    shard: ShardIdx,
    start: u64,
    row_bytes: u64,
}

impl Rows {
    fn of(tensor: &Tensor) -> Self {
        let row_bytes = tensor.span.len_bytes() / tensor.shape[0].max(1);
        Self { name: tensor.name.clone(), shard: tensor.shard, start: tensor.span.start, row_bytes }
    }

    fn read(&self, reader: &Reader, row: u32, buffer: &mut Vec<u8>) -> Result<(), ModelError> {
        let start = self.start + u64::from(row) * self.row_bytes;
        buffer.resize(self.row_bytes as usize, 0);
        let read = reader.read_exact_at(self.shard, Span::new(start, start + self.row_bytes), buffer);
        read.map_err(|source: IoError| ModelError::WeightRead { tensor: self.name.clone(), source })
    }
}

impl Embedding {
    pub(crate) fn new(checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Self, ModelError> {
        let path = architecture.embed_path.as_str();
        let (vocab, hidden) = (architecture.vocab_size as u64, architecture.hidden_size as u64);
        let tensor =
            |name: &str, columns, kind| checkpoint.tensor(&format!("{path}.{name}"), &[vocab, columns], kind);
        let storage = if checkpoint.has(&format!("{path}.scales")) {
            let config = checkpoint.config();
            let format = config.quantized_format(path).ok_or_else(|| {
                config.field_error("quantization", &"missing", "the embedding is quantised")
            })?;
            if hidden % format.group_size as u64 != 0 {
                let expected = "the group size must divide every row";
                return Err(config.field_error("quantization", &format.group_size, expected));
            }
            let columns = format.row_words(architecture.hidden_size);
            let codes = Rows::of(tensor("weight", columns as u64, TensorKind::Codes)?);
            let groups = hidden / format.group_size as u64;
            let mx = |codes, format| {
                let scales = Rows::of(tensor("scales", groups, TensorKind::Bytes)?);
                Ok::<_, ModelError>(Storage::Mx { codes, scales, format })
            };
            match format.mode {
                QuantizedMode::Mxfp4 => mx(codes, Mx::Fp4)?,
                QuantizedMode::Mxfp8 => mx(codes, Mx::Fp8)?,
                QuantizedMode::Nvfp4 => mx(codes, Mx::Nv4)?,
                QuantizedMode::Affine => {
                    let scales = tensor("scales", groups, TensorKind::Float)?;
                    let biases = tensor("biases", groups, TensorKind::Float)?;
                    checkpoint.expect_dtype_of_scales(scales, biases)?;
                    let affine = Affine::new(format.bits as u32, format.group_size as usize);
                    let expected = "2 to 6 or 8 bits in groups of 32, 64 or 128";
                    Storage::Affine {
                        codes,
                        scales: Rows::of(scales),
                        biases: Rows::of(biases),
                        float: float_type(scales.dtype),
                        format: affine
                            .map_err(|error| config.field_error("quantization", &error, expected))?,
                    }
                }
            }
        } else {
            let values = tensor("weight", hidden, TensorKind::Float)?;
            Storage::Dense { values: Rows::of(values), float: float_type(values.dtype) }
        };
        Ok(Self {
            hidden_size: hidden as usize,
            vocab_size: vocab as usize,
            scale: architecture.embed_scale,
            storage,
        })
    }

    /// The embeddings of `ids`, f32 `[1, n, hidden]`.
    pub(crate) fn lookup(&self, reader: &Reader, ids: &[u32]) -> Result<Array, ModelError> {
        let mut out = vec![0.0; ids.len() * self.hidden_size];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.hidden_size)) {
            if id as usize >= self.vocab_size {
                return Err(ModelError::TokenOutOfRange { token: id, vocab_size: self.vocab_size });
            }
            self.storage.row(reader, id, out)?;
            out.iter_mut().for_each(|value| *value *= self.scale);
        }
        Ok(Array::from_slice(&out, &[1, ids.len() as i32, self.hidden_size as i32]))
    }
}

impl Storage {
    fn row(&self, reader: &Reader, row: u32, out: &mut [f32]) -> Result<(), ModelError> {
        let [mut codes_bytes, mut scales_bytes, mut biases_bytes] = [const { Vec::new() }; 3];
        let decoded = match self {
            Self::Dense { values, float } => {
                values.read(reader, row, &mut codes_bytes)?;
                float.decode_into(&codes_bytes, out)
            }
            Self::Affine { codes, scales, biases, float, format } => {
                codes.read(reader, row, &mut codes_bytes)?;
                scales.read(reader, row, &mut scales_bytes)?;
                biases.read(reader, row, &mut biases_bytes)?;
                format.dequantize_row(*float, &codes_bytes, &scales_bytes, &biases_bytes, out)
            }
            Self::Mx { codes, scales, format } => {
                codes.read(reader, row, &mut codes_bytes)?;
                scales.read(reader, row, &mut scales_bytes)?;
                format.dequantize_row(&codes_bytes, &scales_bytes, out)
            }
        };
        decoded.expect("the lengths follow from shapes that were checked");
        Ok(())
    }
}

fn float_type(dtype: Dtype) -> FloatType {
    match dtype {
        Dtype::F16 => FloatType::F16,
        Dtype::BF16 => FloatType::BF16,
        _ => FloatType::F32,
    }
}
