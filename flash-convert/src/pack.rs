//! Copies a mixture of experts with the tensors of each expert stored contiguously.
//!
//! A checkpoint with stacked experts scatters an expert over as many reads as it has tensors, some of them short. In
//! the copy the experts of a layer are one tensor of bytes, `[n_experts, row_bytes]`, whose rows are single experts
//! aligned to OS pages. The metadata describes the contents of a row under the name of that tensor, in the form of a
//! safetensors header whose data section is the row. The header, which is read at every start, therefore stays short
//! for any number of experts. All other tensors are copied unchanged.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_io::{Catalog, IoMode, Tensor};
use serde_json::Value;

use crate::error::ConvertError;
use crate::progress::Progress;
use crate::shards::{self, DATA_ALIGN, Metadata, ShardPlanner, TensorEntry, TensorGroup};
use crate::source;
use crate::writer::OutDir;

/// Bytes copied at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// safetensors' dtype of rows and of their padding.
const BYTES: &str = "U8";
/// Name of the padding that completes the last page of a row.
const PADDING: &str = "filling";
/// Shard size limit that yields one file: with several, an index would be read at every start.
const ONE_FILE: u64 = u64::MAX;

/// The experts of a layer and their tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayer {
    /// Name of the packed tensor in the copy.
    pub name: String,
    /// The tensors of each expert, in the order they are stored.
    pub experts: Vec<Vec<Member>>,
}

/// A tensor of an expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name within a row, the same for all experts of the layer.
    pub name: String,
    /// Name of the tensor in the model.
    pub tensor: String,
    /// Index of the expert if the tensor stacks experts: `[n_experts, …]`.
    pub idx: Option<u64>,
}

/// Plan of a packed copy, made by [`PackPlan::new`] and executed by [`run`](Self::run).
#[derive(Debug)]
pub struct PackPlan {
    dir: PathBuf,
    catalog: Catalog,
    /// Experts come first, so that each row is aligned to a page.
    pieces: Vec<Piece>,
    metadata: Metadata,
    n_experts: usize,
}

/// Result of a finished packing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// The model directory.
    pub out_dir: PathBuf,
    /// Number of experts in all layers.
    pub n_experts: usize,
    /// Bytes of weights.
    pub total_bytes: u64,
}

/// A tensor of the copy.
#[derive(Debug)]
struct Piece {
    /// The sources of its bytes, in order.
    from: Vec<Source>,
    group: TensorGroup,
}

/// Source of consecutive bytes of the copy.
#[derive(Debug)]
enum Source {
    Tensor(Tensor),
    /// A number of zero bytes.
    Zeros(u64),
}

impl PackPlan {
    /// Plans the position of each tensor of the model in `dir`. `layers` are the layers with experts, as
    /// `flash_model::Model::expert_rows` lists them; all other tensors are copied unchanged.
    ///
    /// # Errors
    /// [`ConvertError::Checkpoint`] for invalid safetensors files, [`ConvertError::MissingExpertTensor`] for a tensor
    /// missing from the model, [`ConvertError::ExpertMismatch`] if experts of a layer differ in the types or shapes of
    /// their tensors, and [`ConvertError::DuplicateTensor`] if two tensors of the copy would have the same name.
    pub fn new(dir: &Path, layers: &[PackedLayer]) -> Result<Self, ConvertError> {
        let catalog =
            Catalog::open(dir, IoMode::Pread).map_err(|error| ConvertError::Checkpoint { error })?;
        let mut planner = ShardPlanner::new(ONE_FILE);
        let mut pieces = Vec::with_capacity(layers.len() + catalog.tensors().len());
        let mut metadata = Metadata::new();
        for layer in layers {
            let (from, entry, row) = rows(dir, &catalog, layer)?;
            metadata.insert(entry.name.clone(), row);
            pieces.push(Piece { from, group: planner.place(vec![entry]) });
        }
        let members = || layers.iter().flat_map(|layer| &layer.experts).flatten();
        let packed: HashSet<&str> = members().map(|member| member.tensor.as_str()).collect();
        let mut others: Vec<&Tensor> =
            catalog.tensors().filter(|tensor| !packed.contains(tensor.name.as_str())).collect();
        others.sort_by_key(|tensor| (tensor.shard, tensor.span));
        for tensor in others {
            let group = planner.place(vec![entry(tensor.name.clone(), tensor)]);
            pieces.push(Piece { from: vec![Source::Tensor(tensor.clone())], group });
        }
        check_unique_names(dir, pieces.iter().flat_map(|piece| &piece.group.tensors))?;
        let n_experts = layers.iter().map(|layer| layer.experts.len()).sum();
        Ok(Self { dir: dir.to_owned(), catalog, pieces, metadata, n_experts })
    }

    /// Returns the size of all tensors of the copy, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.pieces.iter().flat_map(|piece| &piece.group.tensors).map(|entry| entry.bytes).sum()
    }

    /// Writes the model directory `out_dir` atomically, like [`Plan::run`](crate::Plan::run). Other files of the model
    /// directory are copied, subdirectories and hidden files are not.
    ///
    /// # Errors
    /// [`ConvertError::OutputExists`], [`ConvertError::Interrupted`], or any error of reading and writing.
    pub fn run(
        &self,
        out_dir: &Path,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Packed, ConvertError> {
        let total_bytes = self.total_bytes();
        let out = OutDir::new(out_dir, total_bytes)?;
        self.copy_others(&out)?;
        let groups: Vec<_> = self.pieces.iter().map(|piece| &piece.group).collect();
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        shards::write(&out, &groups, &self.metadata, progress, |piece_idx, sink| {
            self.pieces[piece_idx].from.iter().try_for_each(|source| match source {
                Source::Zeros(bytes) => sink(0, &vec![0; *bytes as usize]),
                Source::Tensor(tensor) => tensor.span.chunks(CHUNK_BYTES).try_for_each(|chunk| {
                    let bytes = &mut buffer[..chunk.len_bytes() as usize];
                    let shard = &self.catalog.shards()[tensor.shard.0];
                    source::read(shard, tensor, chunk.start, bytes)?;
                    sink(0, bytes)
                }),
            })
        })?;
        out.finish()?;
        Ok(Packed { out_dir: out_dir.to_owned(), n_experts: self.n_experts, total_bytes })
    }

    /// Copies the files of the model directory that hold no weights.
    fn copy_others(&self, out: &OutDir) -> Result<(), ConvertError> {
        let open = |error| ConvertError::Open { path: self.dir.clone(), error };
        for entry in fs::read_dir(&self.dir).map_err(open)? {
            let path = entry.map_err(open)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            // `is_file` follows symbolic links, so the contents of linked files are copied.
            if let Some(name) = name
                && path.is_file()
                && !name.starts_with('.')
                && !name.ends_with(".safetensors")
                && !name.ends_with(".safetensors.index.json")
            {
                source::copy(&path, name, out)?;
            }
        }
        Ok(())
    }
}

/// Returns the sources, the header entry and the row description of a layer's packed tensor.
fn rows(
    dir: &Path,
    catalog: &Catalog,
    layer: &PackedLayer,
) -> Result<(Vec<Source>, TensorEntry, String), ConvertError> {
    let (mut from, mut row) = (Vec::new(), Vec::new());
    let mut padding_bytes = 0;
    for (expert_idx, members) in layer.experts.iter().enumerate() {
        let mut entries = Vec::with_capacity(members.len());
        let mut at = 0;
        for member in members {
            let tensor = member_tensor(dir, catalog, member)?;
            let entry = TensorEntry { offset: at, ..entry(member.name.clone(), &tensor) };
            at += entry.bytes;
            entries.push(entry);
            from.push(Source::Tensor(tensor));
        }
        if expert_idx == 0 {
            (row, padding_bytes) = (entries, at.next_multiple_of(DATA_ALIGN as u64) - at);
        } else if entries != row {
            let n_alike = entries.iter().zip(&row).take_while(|(entry, first)| entry == first).count();
            let tensor = members.get(n_alike).map_or(&layer.name, |member| &member.tensor).clone();
            return Err(ConvertError::ExpertMismatch { path: dir.to_owned(), tensor });
        }
        from.push(Source::Zeros(padding_bytes));
    }
    if padding_bytes > 0 {
        let offset = row.iter().map(|entry| entry.bytes).sum();
        let shape = vec![padding_bytes];
        row.push(TensorEntry { name: PADDING.to_owned(), dtype: BYTES, shape, bytes: padding_bytes, offset });
    }
    check_unique_names(dir, row.iter())?;
    let row_bytes: u64 = row.iter().map(|entry| entry.bytes).sum();
    let shape = vec![layer.experts.len() as u64, row_bytes];
    let bytes = shape.iter().product();
    let entry = TensorEntry { name: layer.name.clone(), dtype: BYTES, shape, bytes, offset: 0 };
    Ok((from, entry, Value::Object(shards::header_entries(row.iter())).to_string()))
}

/// Returns an error if two entries have the same name.
fn check_unique_names<'a>(
    dir: &Path,
    mut entries: impl Iterator<Item = &'a TensorEntry>,
) -> Result<(), ConvertError> {
    let mut names = HashSet::new();
    match entries.find(|entry| !names.insert(&entry.name)) {
        Some(TensorEntry { name, .. }) => {
            Err(ConvertError::DuplicateTensor { path: dir.to_owned(), tensor: name.clone() })
        }
        None => Ok(()),
    }
}

/// Returns the tensor of a member, narrowed to its expert if experts are stacked.
fn member_tensor(dir: &Path, catalog: &Catalog, member: &Member) -> Result<Tensor, ConvertError> {
    let missing = || ConvertError::MissingExpertTensor {
        path: dir.to_owned(),
        tensor: member.tensor.clone(),
        idx: member.idx,
    };
    let mut tensor = catalog.get(&member.tensor).cloned().ok_or_else(missing)?;
    if let Some(idx) = member.idx {
        let n = tensor.shape.first().copied().filter(|n| idx < *n).ok_or_else(missing)?;
        tensor.shape.remove(0);
        let bytes = tensor.span.len_bytes() / n;
        tensor.span.start += idx * bytes;
        tensor.span.end = tensor.span.start + bytes;
    }
    Ok(tensor)
}

/// Returns the header entry of a tensor under a new name.
fn entry(name: String, tensor: &Tensor) -> TensorEntry {
    let Tensor { dtype, shape, span, .. } = tensor;
    TensorEntry { name, dtype: dtype.name(), shape: shape.clone(), bytes: span.len_bytes(), offset: 0 }
}
