//! The embedding table. Rows are read on demand and cached, since texts repeat tokens; the whole table is loaded when
//! the budget has room for it.

mod readers;
mod table;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use flash_io::{Dtype, IoError, Reader, Span, Tensor};
use flash_kernels::{Affine, FloatType, Mx};
use lru::LruCache;
use mlx_rs::Array;

use readers::Readers;
use table::{TENSORS_MAX, Table};

use crate::ModelError;
use crate::checkpoint::config::QuantizedMode;
use crate::checkpoint::{Checkpoint, TensorKind};
use crate::models::Architecture;
use crate::stream::bundle::Part;
use crate::stream::residency::Residency;

/// Bytes of the row cache: a few hundred rows of a large model.
const RECENT_BYTES: usize = 1 << 20;

/// Concurrent row reads: an SSD serves several small reads in the time of one.
const READS_AT_ONCE: usize = 8;

/// The embedding table of a model.
#[derive(Debug)]
pub(crate) struct Embedding {
    hidden_size: usize,
    vocab_size: usize,
    /// Factor applied to every embedding.
    scale: f32,
    storage: Storage,
    /// The tensors of `storage` as one bundle.
    table: Table,
    /// Most recently used rows, in their stored format.
    recent: LruCache<u32, Box<[u8]>>,
    readers: Readers,
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
    tensor: Part,
    row_bytes: u64,
}

impl Rows {
    fn of(tensor: &Tensor) -> Self {
        let row_bytes = tensor.span.len_bytes() / tensor.shape[0].max(1);
        Self { tensor: Part::whole(tensor), row_bytes }
    }

    fn read(&self, reader: &Reader, row: u32, buffer: &mut [u8]) -> Result<(), ModelError> {
        let Part { name, shard, span, .. } = &self.tensor;
        let start = span.start + u64::from(row) * self.row_bytes;
        let read = reader.read_exact_at(*shard, Span::new(start, start + self.row_bytes), buffer);
        read.map_err(|source: IoError| ModelError::WeightRead { tensor: name.clone(), source })
    }
}

impl Embedding {
    pub(crate) fn new(checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Self, ModelError> {
        let path = architecture.embed_path.as_str();
        let (vocab, hidden) = (architecture.vocab_size as u64, architecture.hidden_size as u64);
        let tensor =
            |name: &str, columns, kind| checkpoint.tensor(&format!("{path}.{name}"), &[vocab, columns], kind);
        let storage = if let Some(format) = checkpoint.format(path, path, architecture.hidden_size)? {
            let config = checkpoint.config();
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
        let tensors = storage.tensors().into_iter().flatten().map(|rows| rows.tensor.clone());
        let table = Table::new(path, tensors.collect());
        let n_recent = (RECENT_BYTES / storage.row_bytes().max(1)).min(vocab as usize);
        Ok(Self {
            hidden_size: hidden as usize,
            vocab_size: vocab as usize,
            scale: architecture.embed_scale,
            storage,
            table,
            recent: LruCache::new(NonZeroUsize::new(n_recent).unwrap_or(NonZeroUsize::MIN)),
            readers: Readers::new(READS_AT_ONCE),
        })
    }

    /// Starts loading the whole table if the plan and the allowance leave room for it, or releases it if not. The table
    /// is used from the first pass that finds it loaded.
    pub(crate) fn adapt(&mut self, residency: &Residency) {
        self.table.adapt(residency);
    }

    /// Returns the bytes that the budget plans for the whole table, 0 if there is no room for it.
    pub(crate) fn planned_bytes(&self, residency: &Residency) -> u64 {
        self.table.planned_bytes(residency)
    }

    /// Returns the bytes of the whole table once it is loaded, 0 before.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.table.held_bytes()
    }

    /// Checks that the table has a row for each of `ids`.
    ///
    /// # Errors
    /// [`ModelError::TokenOutOfRange`] for the first token that the table has no row of.
    pub(crate) fn check(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.vocab_size;
        match ids.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(ModelError::TokenOutOfRange { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// Returns the embeddings of `ids`, f32 `[1, n, hidden]`.
    pub(crate) fn lookup(&mut self, reader: &Reader, ids: &[u32]) -> Result<Array, ModelError> {
        self.check(ids)?;
        let mut out = vec![0.0; ids.len() * self.hidden_size];
        if let Some(tensors) = self.table.tensors() {
            for (&token, out) in ids.iter().zip(out.chunks_exact_mut(self.hidden_size)) {
                self.storage.decode(self.storage.row_of(tensors, token), out);
            }
        } else {
            self.lookup_rows(reader, ids, &mut out)?;
        }
        out.iter_mut().for_each(|value| *value *= self.scale);
        Ok(Array::from_slice(&out, &[1, ids.len() as i32, self.hidden_size as i32]))
    }

    /// Decodes the rows of `ids` into `out`, from the row cache and from disk.
    fn lookup_rows(&mut self, reader: &Reader, ids: &[u32], out: &mut [f32]) -> Result<(), ModelError> {
        let at_once = self.recent.cap().get();
        for (ids, out) in ids.chunks(at_once).zip(out.chunks_mut(at_once * self.hidden_size)) {
            self.load(reader, ids)?;
            for (&token, out) in ids.iter().zip(out.chunks_exact_mut(self.hidden_size)) {
                let row = self.recent.get(&token).expect("the cache holds all rows that are loaded at once");
                self.storage.decode(self.storage.row_in(row), out);
            }
        }
        Ok(())
    }

    /// Reads the rows of `ids` that are not cached. There are at most as many distinct tokens as the cache holds.
    fn load(&mut self, reader: &Reader, ids: &[u32]) -> Result<(), ModelError> {
        let mut missing = BTreeMap::new();
        for &token in ids {
            // A hit also marks the row as recently used, so that inserting the missing rows does not evict it.
            if self.recent.get(&token).is_none() {
                missing.entry(token).or_insert_with(|| self.storage.row());
            }
        }
        let reads = missing.iter_mut().flat_map(|(&token, row)| self.storage.parts(token, row)).collect();
        self.readers
            .for_each(reads, |(rows, token, out): (&Rows, u32, &mut [u8])| rows.read(reader, token, out))?;
        for (token, row) in missing {
            self.recent.put(token, row);
        }
        Ok(())
    }

    /// Returns the bytes of cached rows, and of as many rows that are being read.
    pub(crate) fn recent_bytes(&self) -> u64 {
        2 * (self.recent.cap().get() * self.storage.row_bytes()) as u64
    }
}

impl Storage {
    /// Returns the tensors that store the table.
    fn tensors(&self) -> [Option<&Rows>; TENSORS_MAX] {
        match self {
            Self::Dense { values, .. } => [Some(values), None, None],
            Self::Affine { codes, scales, biases, .. } => [Some(codes), Some(scales), Some(biases)],
            Self::Mx { codes, scales, .. } => [Some(codes), Some(scales), None],
        }
    }

    /// Returns the bytes of a row, summed over all tensors.
    fn row_bytes(&self) -> usize {
        self.tensors().into_iter().flatten().map(|rows| rows.row_bytes as usize).sum()
    }

    /// Allocates a row, the concatenation of its parts in each tensor.
    fn row(&self) -> Box<[u8]> {
        vec![0; self.row_bytes()].into_boxed_slice()
    }

    /// Splits a row's buffer into its parts, each with the tensor it is read from.
    fn parts<'a>(
        &'a self,
        token: u32,
        mut row: &'a mut [u8],
    ) -> impl Iterator<Item = (&'a Rows, u32, &'a mut [u8])> {
        self.tensors().into_iter().flatten().map(move |rows| {
            let (part, rest) = std::mem::take(&mut row).split_at_mut(rows.row_bytes as usize);
            row = rest;
            (rows, token, part)
        })
    }

    /// Splits a cached row into its part of each tensor.
    fn row_in<'a>(&self, mut row: &'a [u8]) -> [&'a [u8]; TENSORS_MAX] {
        self.tensors().map(|rows| {
            let (part, rest) = row.split_at(rows.map_or(0, |rows| rows.row_bytes as usize));
            row = rest;
            part
        })
    }

    /// Returns a token's part of each of the whole `tensors`.
    fn row_of<'a>(&self, tensors: [&'a [u8]; TENSORS_MAX], token: u32) -> [&'a [u8]; TENSORS_MAX] {
        let mut row = tensors;
        for (part, rows) in row.iter_mut().zip(self.tensors()) {
            let row_bytes = rows.map_or(0, |rows| rows.row_bytes as usize);
            *part = &part[token as usize * row_bytes..][..row_bytes];
        }
        row
    }

    /// Decodes a row to f32.
    fn decode(&self, [first, second, third]: [&[u8]; TENSORS_MAX], out: &mut [f32]) {
        let decoded = match self {
            Self::Dense { float, .. } => float.decode_into(first, out),
            Self::Affine { float, format, .. } => format.dequantize_row(*float, first, second, third, out),
            Self::Mx { format, .. } => format.dequantize_row(first, second, out),
        };
        decoded.expect("the lengths follow from checked shapes");
    }
}

fn float_type(dtype: Dtype) -> FloatType {
    match dtype {
        Dtype::F16 => FloatType::F16,
        Dtype::BF16 => FloatType::BF16,
        _ => FloatType::F32,
    }
}
