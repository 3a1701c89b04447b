//! A copy of a mixture of experts in which all that there is of an expert lies side by side.
//!
//! Where experts are stacked, what is read for one lies in as many places as it has tensors, some of them short. In the copy
//! each expert begins at a page and is read from one place. Its tensors are the same bytes under names of their own; everything
//! else is as it was.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_io::{Catalog, IoMode, Tensor};

use crate::conversion::Progress;
use crate::error::ConvertError;
use crate::shards::{self, DATA_ALIGN, Packing, Part, Placed};
use crate::source;
use crate::writer::OutDir;

/// Bytes that are copied at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// The type of bytes between experts, as safetensors calls it.
const BYTES: &str = "U8";

/// A tensor of an expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is called in the copy.
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
    n_experts: usize,
    n_shards: usize,
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
    /// How many safetensors files there are.
    pub n_shards: usize,
}

/// Tensors that stay together.
#[derive(Debug)]
struct Piece {
    /// Where the bytes of each come from, but for those that only fill a page.
    from: Vec<Tensor>,
    placed: Placed,
}

impl PackPlan {
    /// Decides where each tensor of the model in `dir` goes. `experts` has the tensors of each expert, in the order in which they are
    /// to lie.
    ///
    /// # Errors
    /// [`ConvertError::Checkpoint`] for safetensors files that are not in order, [`ConvertError::NoMember`] for a tensor that the model
    /// does not have, [`ConvertError::Twice`] if two tensors of the copy would have one name.
    pub fn new(dir: &Path, experts: &[Vec<Member>], shard_bytes_max: u64) -> Result<Self, ConvertError> {
        let catalog =
            Catalog::open(dir, IoMode::Pread).map_err(|error| ConvertError::Checkpoint { error })?;
        let mut packing = Packing::new(shard_bytes_max);
        let mut pieces = Vec::with_capacity(experts.len() + catalog.tensors().len());
        for members in experts {
            pieces.push(expert(dir, &catalog, members, &mut packing)?);
        }
        let mut packed: HashSet<String> =
            experts.iter().flatten().map(|member| member.tensor.clone()).collect();
        // Of a model that is packed already: they are made anew.
        packed.extend(experts.iter().filter_map(|members| Some(filling_name(&members.first()?.name))));
        let mut others: Vec<&Tensor> =
            catalog.tensors().filter(|tensor| !packed.contains(&tensor.name)).collect();
        others.sort_by_key(|tensor| (tensor.shard, tensor.span));
        for tensor in others {
            let placed = packing.place(vec![part(tensor.name.clone(), tensor)]);
            pieces.push(Piece { from: vec![tensor.clone()], placed });
        }
        let mut names = HashSet::new();
        let twice =
            pieces.iter().flat_map(|piece| &piece.placed.parts).find(|part| !names.insert(&part.name));
        if let Some(Part { name, .. }) = twice {
            return Err(ConvertError::Twice { path: dir.to_owned(), tensor: name.clone() });
        }
        let n_shards = packing.n_shards();
        Ok(Self { dir: dir.to_owned(), catalog, pieces, n_experts: experts.len(), n_shards })
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
        shards::write(&out, &placed, progress, |piece_idx, sink| {
            let Piece { from, placed } = &self.pieces[piece_idx];
            for (part_idx, tensor) in from.iter().enumerate() {
                let shard = &self.catalog.shards()[tensor.shard.0];
                for chunk in tensor.span.chunks(CHUNK_BYTES) {
                    let bytes = &mut buffer[..chunk.len_bytes() as usize];
                    source::read(shard, tensor, chunk.start, bytes)?;
                    sink(part_idx, bytes)?;
                }
            }
            let mut fillings = placed.parts.iter().enumerate().skip(from.len());
            fillings.try_for_each(|(idx, part)| sink(idx, &vec![0; part.bytes as usize]))
        })?;
        out.finish()?;
        let Self { n_experts, n_shards, .. } = *self;
        Ok(Packed { out_dir: out_dir.to_owned(), n_experts, total_bytes, n_shards })
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

/// The tensors of an expert, and what fills its last page.
fn expert(
    dir: &Path,
    catalog: &Catalog,
    members: &[Member],
    packing: &mut Packing,
) -> Result<Piece, ConvertError> {
    let from: Vec<Tensor> =
        members.iter().map(|member| of_member(dir, catalog, member)).collect::<Result<_, _>>()?;
    let mut parts: Vec<Part> =
        members.iter().zip(&from).map(|(member, tensor)| part(member.name.clone(), tensor)).collect();
    let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    let filling_bytes = bytes.next_multiple_of(DATA_ALIGN as u64) - bytes;
    if let Some(first) = members.first().filter(|_| filling_bytes > 0) {
        let (name, dtype, shape) = (filling_name(&first.name), BYTES, vec![filling_bytes]);
        parts.push(Part { name, dtype, shape, bytes: filling_bytes, offset: 0 });
    }
    Ok(Piece { from, placed: packing.place(parts) })
}

/// What fills the last page of the expert whose first tensor is called so.
fn filling_name(first: &str) -> String {
    format!("{first}.filling")
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
