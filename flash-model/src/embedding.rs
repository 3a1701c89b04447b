//! The embedding table, read by row: it need not be resident. Texts repeat tokens, so rows stay for a while.

use std::num::NonZeroUsize;

use flash_io::{Dtype, IoError, Reader, ShardIdx, Span, Tensor};
use flash_kernels::{Affine, FloatType, Mx};
use lru::LruCache;
use mlx_rs::Array;

use crate::ModelError;
use crate::checkpoint::{Checkpoint, TensorKind};
use crate::config::QuantizedMode;
use crate::models::Architecture;

/// Bytes of rows that stay: a few hundred of a large model. A row that is read is waited for, up to three times.
const RECENT_BYTES: usize = 1 << 20;

/// Where the rows of the table lie, and how they are stored.
#[derive(Debug)]
pub(crate) struct Embedding {
    hidden_size: usize,
    vocab_size: usize,
    /// What each number is multiplied by.
    scale: f32,
    storage: Storage,
    /// Rows of the tokens that were looked up last, as they are stored.
    recent: LruCache<u32, Box<[u8]>>,
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

    fn read(&self, reader: &Reader, row: u32, buffer: &mut [u8]) -> Result<(), ModelError> {
        let start = self.start + u64::from(row) * self.row_bytes;
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
        let n_recent = (RECENT_BYTES / storage.row_bytes().max(1)).min(vocab as usize);
        Ok(Self {
            hidden_size: hidden as usize,
            vocab_size: vocab as usize,
            scale: architecture.embed_scale,
            storage,
            recent: LruCache::new(NonZeroUsize::new(n_recent).unwrap_or(NonZeroUsize::MIN)),
        })
    }

    /// The embeddings of `ids`, f32 `[1, n, hidden]`.
    pub(crate) fn lookup(&mut self, reader: &Reader, ids: &[u32]) -> Result<Array, ModelError> {
        let mut out = vec![0.0; ids.len() * self.hidden_size];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.hidden_size)) {
            if id as usize >= self.vocab_size {
                return Err(ModelError::TokenOutOfRange { token: id, vocab_size: self.vocab_size });
            }
            let row = self.recent.try_get_or_insert(id, || self.storage.read(reader, id))?;
            self.storage.decode(row, out);
            out.iter_mut().for_each(|value| *value *= self.scale);
        }
        Ok(Array::from_slice(&out, &[1, ids.len() as i32, self.hidden_size as i32]))
    }

    /// What rows take that stay.
    pub(crate) fn recent_bytes(&self) -> u64 {
        (self.recent.cap().get() * self.storage.row_bytes()) as u64
    }
}

impl Storage {
    /// The tensors that a row lies in.
    fn tensors(&self) -> [Option<&Rows>; 3] {
        match self {
            Self::Dense { values, .. } => [Some(values), None, None],
            Self::Affine { codes, scales, biases, .. } => [Some(codes), Some(scales), Some(biases)],
            Self::Mx { codes, scales, .. } => [Some(codes), Some(scales), None],
        }
    }

    /// Bytes of a row in all of them.
    fn row_bytes(&self) -> usize {
        self.tensors().into_iter().flatten().map(|rows| rows.row_bytes as usize).sum()
    }

    /// A row, what one tensor has of it behind what the one before has.
    fn read(&self, reader: &Reader, row: u32) -> Result<Box<[u8]>, ModelError> {
        let mut bytes = vec![0; self.row_bytes()].into_boxed_slice();
        let mut rest = &mut *bytes;
        for rows in self.tensors().into_iter().flatten() {
            let (part, behind) = rest.split_at_mut(rows.row_bytes as usize);
            rows.read(reader, row, part)?;
            rest = behind;
        }
        Ok(bytes)
    }

    /// The numbers of a row that was read.
    fn decode(&self, mut bytes: &[u8], out: &mut [f32]) {
        let [first, second, third] = self.tensors().map(|rows| {
            let (part, rest) = bytes.split_at(rows.map_or(0, |rows| rows.row_bytes as usize));
            bytes = rest;
            part
        });
        let decoded = match self {
            Self::Dense { float, .. } => float.decode_into(first, out),
            Self::Affine { float, format, .. } => format.dequantize_row(*float, first, second, third, out),
            Self::Mx { format, .. } => format.dequantize_row(first, second, out),
        };
        decoded.expect("the lengths follow from shapes that were checked");
    }
}

fn float_type(dtype: Dtype) -> FloatType {
    match dtype {
        Dtype::F16 => FloatType::F16,
        Dtype::BF16 => FloatType::BF16,
        _ => FloatType::F32,
    }
}
