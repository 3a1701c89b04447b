//! The safetensors files of a converted model: what lies where in them, and how they are written.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flash_kernels::FloatType;
use serde_json::{Map, Value, json};

use crate::error::ConvertError;
use crate::progress::Progress;
use crate::scratch::Sink;
use crate::writer::{OutDir, OutFile};

/// To what multiple the data section of a shard is aligned: a page, so that whole pages of a tensor can be read past the
/// page cache, and with it a cache line, so that kernels may use wide loads.
pub(crate) const DATA_ALIGN: usize = 4096;

/// The file that says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// Bytes of the header's length.
const LEN_BYTES: usize = 8;

/// Text in the header of a shard.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A tensor of a converted model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// Type as safetensors calls it.
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: u64,
    /// Where it starts in the data section of its shard.
    pub(crate) offset: u64,
}

/// Parts that stay together, and where they go.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    /// The values of a parameter, or its codes, scales and biases; or all there is of an expert.
    pub(crate) parts: Vec<Part>,
    /// Which shard holds them all.
    shard_idx: usize,
}

/// Fills shards one after the other.
#[derive(Debug)]
pub(crate) struct Packing {
    shard_bytes_max: u64,
    shard_idx: usize,
    shard_bytes: u64,
}

impl Packing {
    pub(crate) fn new(shard_bytes_max: u64) -> Self {
        Self { shard_bytes_max, shard_idx: 0, shard_bytes: 0 }
    }

    /// Places parts that stay together behind those before.
    pub(crate) fn place(&mut self, mut parts: Vec<Part>) -> Placed {
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        if self.shard_bytes > 0 && self.shard_bytes + bytes > self.shard_bytes_max {
            self.shard_idx += 1;
            self.shard_bytes = 0;
        }
        for part in &mut parts {
            part.offset = self.shard_bytes;
            self.shard_bytes += part.bytes;
        }
        Placed { parts, shard_idx: self.shard_idx }
    }

    pub(crate) fn n_shards(&self) -> usize {
        self.shard_idx + 1
    }
}

/// Writes all shards, and the index if there are several. `convert` hands over the parts of the parameter of an index. Each shard
/// has the `metadata`, beside what MLX's have.
pub(crate) fn write<E: From<ConvertError>>(
    out: &OutDir,
    parameters: &[&Placed],
    metadata: &Metadata,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    mut convert: impl FnMut(usize, &mut Sink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let n_shards = parameters.last().map_or(1, |last| last.shard_idx + 1);
    let mut shards = vec![Vec::new(); n_shards];
    for placed in parameters {
        shards[placed.shard_idx].extend(&placed.parts);
    }
    if n_shards > 1 {
        out.write_json(INDEX, &index(&shards), true)?;
    }
    let total_bytes = shards.iter().flatten().map(|part| part.bytes).sum();
    let mut done_bytes = 0;
    for (shard_idx, parts) in shards.iter().enumerate() {
        let shard = Shard::create(out, &name(shard_idx, n_shards), parts, metadata)?;
        let of_shard = parameters.iter().enumerate().filter(|(_, placed)| placed.shard_idx == shard_idx);
        for (parameter_idx, placed) in of_shard {
            let mut written_bytes = vec![0; placed.parts.len()];
            convert(parameter_idx, &mut |part_idx, bytes| {
                let at = &mut written_bytes[part_idx];
                shard.write(&placed.parts[part_idx], *at, bytes)?;
                *at += bytes.len() as u64;
                done_bytes += bytes.len() as u64;
                match progress(Progress { done_bytes, total_bytes }) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(out.interrupted()),
                }
            })?;
        }
        shard.finish()?;
    }
    Ok(())
}

/// The file name of a shard.
fn name(shard_idx: usize, n_shards: usize) -> String {
    match n_shards {
        1 => "model.safetensors".to_owned(),
        n => format!("model-{:05}-of-{n:05}.safetensors", shard_idx + 1),
    }
}

/// A type as safetensors calls it.
pub(crate) const fn dtype(float: FloatType) -> &'static str {
    match float {
        FloatType::F32 => "F32",
        FloatType::F16 => "F16",
        FloatType::BF16 => "BF16",
    }
}

/// A safetensors file whose header is written and whose tensors follow in any order.
#[derive(Debug)]
struct Shard {
    file: OutFile,
    data_offset: u64,
}

impl Shard {
    /// Starts the shard that holds `parts`.
    fn create(dir: &OutDir, name: &str, parts: &[&Part], metadata: &Metadata) -> Result<Self, ConvertError> {
        let header = header(parts, metadata);
        let file = dir.create(name)?;
        file.write_at(0, &header)?;
        Ok(Self { file, data_offset: header.len() as u64 })
    }

    /// Writes bytes of a part, `at` bytes after its start.
    fn write(&self, part: &Part, at: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        let end = at + bytes.len() as u64;
        assert!(end <= part.bytes, "{}: more bytes than planned", part.name);
        self.file.write_at(self.data_offset + part.offset + at, bytes)
    }

    /// Makes the shard durable.
    fn finish(self) -> Result<(), ConvertError> {
        self.file.finish()
    }
}

/// A safetensors header with its length, padded so that the data after it is aligned.
fn header(parts: &[&Part], metadata: &Metadata) -> Vec<u8> {
    let mut entries = entries(parts.iter().copied());
    let format = ("format".to_owned(), json!("mlx"));
    let metadata = metadata.iter().map(|(key, value)| (key.clone(), json!(value)));
    entries.insert("__metadata__".to_owned(), metadata.chain([format]).collect());
    let json = Value::Object(entries).to_string();
    let len = (LEN_BYTES + json.len()).next_multiple_of(DATA_ALIGN) - LEN_BYTES;
    let mut header = (len as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(LEN_BYTES + len, b' ');
    header
}

/// What a header says of parts.
pub(crate) fn entries<'a>(parts: impl Iterator<Item = &'a Part>) -> Map<String, Value> {
    let entry = |part: &Part| {
        json!({
            "dtype": part.dtype,
            "shape": part.shape,
            "data_offsets": [part.offset, part.offset + part.bytes],
        })
    };
    parts.map(|part| (part.name.clone(), entry(part))).collect()
}

/// `model.safetensors.index.json`: which shard holds which tensor.
fn index(shards: &[Vec<&Part>]) -> Value {
    let weight_map: Map<String, Value> = shards
        .iter()
        .enumerate()
        .flat_map(|(shard_idx, parts)| {
            let name = name(shard_idx, shards.len());
            parts.iter().map(move |part| (part.name.clone(), json!(name)))
        })
        .collect();
    let total_bytes: u64 = shards.iter().flatten().map(|part| part.bytes).sum();
    json!({
        "metadata": {"total_size": total_bytes},
        "weight_map": weight_map,
    })
}
