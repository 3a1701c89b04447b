//! The safetensors shards of a converted model: their layout, and how they are written.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flash_kernels::FloatType;
use serde_json::{Map, Value, json};

use crate::error::ConvertError;
use crate::progress::Progress;
use crate::scratch::Sink;
use crate::writer::{OutDir, OutFile};

/// Alignment of a shard's data section in bytes: an OS page, so that whole pages of a tensor can be read with direct
/// I/O; this also aligns to cache lines, so that kernels can use wide loads.
pub(crate) const DATA_ALIGN: usize = 4096;

/// File name of the index that maps tensors to shards.
const INDEX: &str = "model.safetensors.index.json";

/// Size of the header-length field, in bytes.
const LEN_BYTES: usize = 8;

/// `__metadata__` of a shard's header.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A tensor of a converted model, as the header of its shard lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorEntry {
    pub(crate) name: String,
    /// safetensors' name of the dtype.
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: u64,
    /// Offset in the data section of the shard.
    pub(crate) offset: u64,
}

/// Tensors that are stored contiguously in one shard.
#[derive(Debug, Clone)]
pub(crate) struct TensorGroup {
    /// The values of a parameter; or its codes, scales and biases; or the packed rows of a layer's experts.
    pub(crate) tensors: Vec<TensorEntry>,
    /// The shard that holds all of them.
    shard_idx: usize,
}

/// Assigns groups of tensors to shards, filling one shard after the other.
#[derive(Debug)]
pub(crate) struct ShardPlanner {
    shard_bytes_max: u64,
    shard_idx: usize,
    shard_bytes: u64,
}

impl ShardPlanner {
    pub(crate) fn new(shard_bytes_max: u64) -> Self {
        Self { shard_bytes_max, shard_idx: 0, shard_bytes: 0 }
    }

    /// Appends a group: to the current shard if it fits, or else to a new one.
    pub(crate) fn place(&mut self, mut tensors: Vec<TensorEntry>) -> TensorGroup {
        let bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
        if self.shard_bytes > 0 && self.shard_bytes + bytes > self.shard_bytes_max {
            self.shard_idx += 1;
            self.shard_bytes = 0;
        }
        for tensor in &mut tensors {
            tensor.offset = self.shard_bytes;
            self.shard_bytes += tensor.bytes;
        }
        TensorGroup { tensors, shard_idx: self.shard_idx }
    }

    pub(crate) fn n_shards(&self) -> usize {
        self.shard_idx + 1
    }
}

/// Writes all shards, and the index if there are several.
///
/// `convert` writes the tensors of the group with a given index to its sink. The header of each shard has `metadata` in
/// addition to MLX's own.
pub(crate) fn write<E: From<ConvertError>>(
    out: &OutDir,
    groups: &[&TensorGroup],
    metadata: &Metadata,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    mut convert: impl FnMut(usize, &mut Sink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let n_shards = groups.last().map_or(1, |last| last.shard_idx + 1);
    let mut shards = vec![Vec::new(); n_shards];
    for group in groups {
        shards[group.shard_idx].extend(&group.tensors);
    }
    if n_shards > 1 {
        out.write_json(INDEX, &index(&shards), true)?;
    }
    let total_bytes = shards.iter().flatten().map(|tensor| tensor.bytes).sum();
    let mut done_bytes = 0;
    for (shard_idx, tensors) in shards.iter().enumerate() {
        let shard = Shard::create(out, &name(shard_idx, n_shards), tensors, metadata)?;
        let of_shard = groups.iter().enumerate().filter(|(_, group)| group.shard_idx == shard_idx);
        for (group_idx, group) in of_shard {
            let mut written_bytes = vec![0; group.tensors.len()];
            convert(group_idx, &mut |tensor_idx, bytes| {
                let at = &mut written_bytes[tensor_idx];
                shard.write(&group.tensors[tensor_idx], *at, bytes)?;
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

/// Returns the file name of a shard.
fn name(shard_idx: usize, n_shards: usize) -> String {
    match n_shards {
        1 => "model.safetensors".to_owned(),
        n => format!("model-{:05}-of-{n:05}.safetensors", shard_idx + 1),
    }
}

/// Returns safetensors' name of a float type.
pub(crate) const fn dtype(float: FloatType) -> &'static str {
    match float {
        FloatType::F32 => "F32",
        FloatType::F16 => "F16",
        FloatType::BF16 => "BF16",
    }
}

/// A safetensors file whose header has been written; its tensors can follow in any order.
#[derive(Debug)]
struct Shard {
    file: OutFile,
    data_offset: u64,
}

impl Shard {
    /// Creates the shard that holds `tensors` and writes its header.
    fn create(
        dir: &OutDir,
        name: &str,
        tensors: &[&TensorEntry],
        metadata: &Metadata,
    ) -> Result<Self, ConvertError> {
        let header = header(tensors, metadata);
        let file = dir.create(name)?;
        file.write_at(0, &header)?;
        Ok(Self { file, data_offset: header.len() as u64 })
    }

    /// Writes bytes of a tensor at offset `at` within it.
    fn write(&self, tensor: &TensorEntry, at: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        let end = at + bytes.len() as u64;
        assert!(end <= tensor.bytes, "{}: more bytes than planned", tensor.name);
        self.file.write_at(self.data_offset + tensor.offset + at, bytes)
    }

    /// Syncs the shard to disk.
    fn finish(self) -> Result<(), ConvertError> {
        self.file.finish()
    }
}

/// Encodes a safetensors header with its length field, padded so that the data section is aligned.
fn header(tensors: &[&TensorEntry], metadata: &Metadata) -> Vec<u8> {
    let mut entries = header_entries(tensors.iter().copied());
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

/// Returns the header entries of `tensors`.
pub(crate) fn header_entries<'a>(tensors: impl Iterator<Item = &'a TensorEntry>) -> Map<String, Value> {
    let entry = |tensor: &TensorEntry| {
        json!({
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [tensor.offset, tensor.offset + tensor.bytes],
        })
    };
    tensors.map(|tensor| (tensor.name.clone(), entry(tensor))).collect()
}

/// Returns the contents of `model.safetensors.index.json`, which maps tensors to shards.
fn index(shards: &[Vec<&TensorEntry>]) -> Value {
    let weight_map: Map<String, Value> = shards
        .iter()
        .enumerate()
        .flat_map(|(shard_idx, tensors)| {
            let name = name(shard_idx, shards.len());
            tensors.iter().map(move |tensor| (tensor.name.clone(), json!(name)))
        })
        .collect();
    let total_bytes: u64 = shards.iter().flatten().map(|tensor| tensor.bytes).sum();
    json!({
        "metadata": {"total_size": total_bytes},
        "weight_map": weight_map,
    })
}
