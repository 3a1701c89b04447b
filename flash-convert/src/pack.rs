//! A copy of a mixture of experts in which all that there is of an expert lies side by side.
//!
//! Where experts are stacked, what is read for one lies in as many places as it has tensors, some of them short. In the copy
//! those of a layer are one tensor of bytes, `[n_experts, row_bytes]`, in which each expert is a row that begins at a page. The
//! metadata has, under the name of that tensor, what a row holds, as the header of a safetensors file says it whose data a row would
//! be. So the header of the copy is short, however many experts there are; it is read at every start. Everything else is as it was.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_io::{Catalog, IoMode, Tensor};
use serde_json::Value;

use crate::error::ConvertError;
use crate::progress::Progress;
use crate::shards::{self, DATA_ALIGN, Metadata, Packing, Part, Placed};
use crate::source;
use crate::writer::OutDir;

/// Bytes that are copied at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// The type of rows, and of what fills their last pages, as safetensors calls it.
const BYTES: &str = "U8";
/// What fills the last page of a row.
const FILLING: &str = "filling";
/// An index would have to be read at every start, too.
const ONE_FILE: u64 = u64::MAX;

/// The experts of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerExperts {
    /// What the tensor of all of them is called in the copy.
    pub name: String,
    /// The tensors of each, in the order in which they are to lie.
    pub experts: Vec<Vec<Member>>,
}

/// A tensor of an expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is called in a row, the same for all experts of the layer.
    pub name: String,
    /// The tensor of the model that has it.
    pub tensor: String,
    /// Its place in there, if tensors of several experts are stacked: `[n_experts, …]`.
    pub idx: Option<u64>,
}

/// What a packing will do: [`PackPlan::new`] makes it, [`run`](Self::run) carries it out.
#[derive(Debug)]
pub struct PackPlan {
    dir: PathBuf,
    catalog: Catalog,
    /// Experts first, so that each begins at a page.
    pieces: Vec<Piece>,
    metadata: Metadata,
    n_experts: usize,
}

/// What a packing made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// The model directory.
    pub out_dir: PathBuf,
    /// Experts of all layers.
    pub n_experts: usize,
    /// Bytes of weights.
    pub total_bytes: u64,
}

/// A tensor of the copy.
#[derive(Debug)]
struct Piece {
    /// Where its bytes come from, one after the other.
    from: Vec<Source>,
    placed: Placed,
}

#[derive(Debug)]
enum Source {
    Tensor(Tensor),
    /// So many zeros.
    Filling(u64),
}

impl PackPlan {
    /// Decides where each tensor of the model in `dir` goes.
    ///
    /// # Errors
    /// [`ConvertError::Checkpoint`] for safetensors files that are not in order, [`ConvertError::NoMember`] for a tensor that the model
    /// does not have, [`ConvertError::Unalike`] for experts of a layer whose tensors are not of the same types and shapes,
    /// [`ConvertError::Twice`] if two tensors of the copy would have one name.
    pub fn new(dir: &Path, layers: &[LayerExperts]) -> Result<Self, ConvertError> {
        let catalog =
            Catalog::open(dir, IoMode::Pread).map_err(|error| ConvertError::Checkpoint { error })?;
        let mut packing = Packing::new(ONE_FILE);
        let mut pieces = Vec::with_capacity(layers.len() + catalog.tensors().len());
        let mut metadata = Metadata::new();
        for layer in layers {
            let (from, part, row) = rows(dir, &catalog, layer)?;
            metadata.insert(part.name.clone(), row);
            pieces.push(Piece { from, placed: packing.place(vec![part]) });
        }
        let members = || layers.iter().flat_map(|layer| &layer.experts).flatten();
        let packed: HashSet<&str> = members().map(|member| member.tensor.as_str()).collect();
        let mut others: Vec<&Tensor> =
            catalog.tensors().filter(|tensor| !packed.contains(tensor.name.as_str())).collect();
        others.sort_by_key(|tensor| (tensor.shard, tensor.span));
        for tensor in others {
            let placed = packing.place(vec![part(tensor.name.clone(), tensor)]);
            pieces.push(Piece { from: vec![Source::Tensor(tensor.clone())], placed });
        }
        no_name_twice(dir, pieces.iter().flat_map(|piece| &piece.placed.parts))?;
        let n_experts = layers.iter().map(|layer| layer.experts.len()).sum();
        Ok(Self { dir: dir.to_owned(), catalog, pieces, metadata, n_experts })
    }

    /// What all tensors take in the copy, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.pieces.iter().flat_map(|piece| &piece.placed.parts).map(|part| part.bytes).sum()
    }

    /// Writes the model directory `out_dir`, as [`Plan::run`](crate::Plan::run) does. Files of the model that are no weights are
    /// copied, those of folders in it are not.
    ///
    /// # Errors
    /// [`ConvertError::OutputExists`], [`ConvertError::Interrupted`], or what reading and writing may meet.
    pub fn run(
        &self,
        out_dir: &Path,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Packed, ConvertError> {
        let total_bytes = self.total_bytes();
        let out = OutDir::new(out_dir, total_bytes)?;
        self.copy_others(&out)?;
        let placed: Vec<_> = self.pieces.iter().map(|piece| &piece.placed).collect();
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        shards::write(&out, &placed, &self.metadata, progress, |piece_idx, sink| {
            self.pieces[piece_idx].from.iter().try_for_each(|source| match source {
                Source::Filling(bytes) => sink(0, &vec![0; *bytes as usize]),
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

    fn copy_others(&self, out: &OutDir) -> Result<(), ConvertError> {
        let open = |error| ConvertError::Open { path: self.dir.clone(), error };
        for entry in fs::read_dir(&self.dir).map_err(open)? {
            let path = entry.map_err(open)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            // Of files that are links, the contents are copied.
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

/// The tensor of all experts of a layer: where its bytes come from, what it is, and what a row holds.
fn rows(
    dir: &Path,
    catalog: &Catalog,
    layer: &LayerExperts,
) -> Result<(Vec<Source>, Part, String), ConvertError> {
    let (mut from, mut row) = (Vec::new(), Vec::new());
    let mut filling_bytes = 0;
    for (expert_idx, members) in layer.experts.iter().enumerate() {
        let mut parts = Vec::with_capacity(members.len());
        let mut at = 0;
        for member in members {
            let tensor = of_member(dir, catalog, member)?;
            let part = Part { offset: at, ..part(member.name.clone(), &tensor) };
            at += part.bytes;
            parts.push(part);
            from.push(Source::Tensor(tensor));
        }
        if expert_idx == 0 {
            (row, filling_bytes) = (parts, at.next_multiple_of(DATA_ALIGN as u64) - at);
        } else if parts != row {
            let n_alike = parts.iter().zip(&row).take_while(|(part, first)| part == first).count();
            let tensor = members.get(n_alike).map_or(&layer.name, |member| &member.tensor).clone();
            return Err(ConvertError::Unalike { path: dir.to_owned(), tensor });
        }
        from.push(Source::Filling(filling_bytes));
    }
    if filling_bytes > 0 {
        let offset = row.iter().map(|part| part.bytes).sum();
        let shape = vec![filling_bytes];
        row.push(Part { name: FILLING.to_owned(), dtype: BYTES, shape, bytes: filling_bytes, offset });
    }
    no_name_twice(dir, row.iter())?;
    let row_bytes: u64 = row.iter().map(|part| part.bytes).sum();
    let shape = vec![layer.experts.len() as u64, row_bytes];
    let bytes = shape.iter().product();
    let part = Part { name: layer.name.clone(), dtype: BYTES, shape, bytes, offset: 0 };
    Ok((from, part, Value::Object(shards::entries(row.iter())).to_string()))
}

fn no_name_twice<'a>(dir: &Path, mut parts: impl Iterator<Item = &'a Part>) -> Result<(), ConvertError> {
    let mut names = HashSet::new();
    match parts.find(|part| !names.insert(&part.name)) {
        Some(Part { name, .. }) => Err(ConvertError::Twice { path: dir.to_owned(), tensor: name.clone() }),
        None => Ok(()),
    }
}

/// The bytes of the model that a member is.
fn of_member(dir: &Path, catalog: &Catalog, member: &Member) -> Result<Tensor, ConvertError> {
    let missing =
        || ConvertError::NoMember { path: dir.to_owned(), tensor: member.tensor.clone(), idx: member.idx };
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

fn part(name: String, tensor: &Tensor) -> Part {
    let Tensor { dtype, shape, span, .. } = tensor;
    Part { name, dtype: dtype.name(), shape: shape.clone(), bytes: span.len_bytes(), offset: 0 }
}
