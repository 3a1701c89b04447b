//! Tensors of a model directory and their locations.

mod index;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::dtype::Dtype;
use crate::error::IoError;
use crate::header::Header;
use crate::mode::IoMode;
use crate::span::Span;
use crate::storage::{self, ReadAt};

pub use index::MAX_INDEX_BYTES;

/// File name of a model in one shard.
const SINGLE_SHARD: &str = "model.safetensors";
/// File name of the index of a model in several shards.
const INDEX: &str = "model.safetensors.index.json";
/// File name extension of shards.
const EXTENSION: &str = "safetensors";

/// Index of a shard in [`Catalog::shards`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIdx(pub usize);

/// An open safetensors file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Shard {
    /// Path of the file, for errors.
    pub path: PathBuf,
    /// Storage that the bytes are read from.
    pub storage: Arc<dyn ReadAt>,
    /// State of the file when it was opened; `None` if writes to it are allowed.
    stamp: Option<Stamp>,
}

/// Length and modification time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len_bytes: u64,
    modified: SystemTime,
}

impl Stamp {
    fn of(storage: &dyn ReadAt) -> io::Result<Option<Self>> {
        let Some(metadata) = storage.file_metadata()? else { return Ok(None) };
        let modified = metadata.modified()?;
        Ok(Some(Self { len_bytes: storage.len_bytes()?, modified }))
    }
}

impl Shard {
    /// Opens a shard that must not be written to while it is open: reads after such a write fail.
    ///
    /// # Errors
    /// See [`open`](crate::open); [`IoError::Open`] also if the metadata cannot be read.
    pub fn open(path: PathBuf, mode: IoMode) -> Result<Self, IoError> {
        let storage = storage::open(&path, mode)?;
        let stamp = Stamp::of(&*storage).map_err(IoError::cannot_open(&path))?;
        Ok(Self { storage, path, stamp })
    }

    /// Creates a shard of any storage, without checks for writes; `path` is only for errors.
    pub fn new(path: PathBuf, storage: Arc<dyn ReadAt>) -> Self {
        Self { path, storage, stamp: None }
    }

    /// Checks that the file was not written to since it was opened, by length and modification time, which file systems
    /// record in steps of some milliseconds. A file that became shorter passes: reads past its end fail by themselves,
    /// with their offset.
    ///
    /// # Errors
    /// [`IoError::Changed`] if it was written to, [`IoError::Open`] if its metadata cannot be read.
    pub(crate) fn check_unchanged(&self) -> Result<(), IoError> {
        let Some(opened) = self.stamp else { return Ok(()) };
        match Stamp::of(&*self.storage).map_err(IoError::cannot_open(&self.path))? {
            Some(now) if now != opened && now.len_bytes >= opened.len_bytes => {
                Err(IoError::Changed { path: self.path.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A named typed array in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name, unique in the catalog.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extent of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Shard that holds the tensor.
    pub shard: ShardIdx,
    /// Byte range, relative to the start of the shard.
    pub span: Span,
}

/// Catalog of the tensors of a model directory.
///
/// Opening reads only headers, so its cost does not depend on the size of the weights.
#[derive(Debug, Clone)]
pub struct Catalog {
    shards: Vec<Shard>,
    /// Sorted by name.
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Catalog {
    /// Opens a model directory: `model.safetensors` if it exists, else the shards named by
    /// `model.safetensors.index.json`, else all `model*.safetensors`, else all `*.safetensors` that are not hidden,
    /// sorted by name.
    ///
    /// With an index, the catalog holds only the tensors that the index names, as in Hugging Face's loader.
    ///
    /// # Errors
    /// [`IoError`] if the directory has no shard, one cannot be opened, a header or the index is invalid, the index
    /// names a missing shard or tensor, or two shards hold the same tensor.
    pub fn open(dir: &Path, mode: IoMode) -> Result<Self, IoError> {
        let is_dir = fs::metadata(dir).map_err(IoError::cannot_open(dir))?.is_dir();
        if !is_dir {
            return Err(IoError::NotADirectory { path: dir.to_owned() });
        }
        let (single, index) = (dir.join(SINGLE_SHARD), dir.join(INDEX));
        let catalog = if exists(&single)? {
            Self::open_shards(vec![single], mode)?
        } else if exists(&index)? {
            Self::open_indexed(dir, &index, mode)?
        } else {
            Self::open_shards(list_shards(dir)?, mode)?
        };
        let (n_shards, n_tensors) = (catalog.shards.len(), catalog.tensors.len());
        tracing::debug!(dir = %dir.display(), n_shards, n_tensors, %mode, "opened a catalog");
        Ok(catalog)
    }

    fn open_shards(paths: Vec<PathBuf>, mode: IoMode) -> Result<Self, IoError> {
        let mut builder = Builder::default();
        for path in paths {
            builder.add_shard(path, mode, |_| true)?;
        }
        let Builder { shards, mut tensors, metadata } = builder;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some([first, second]) = tensors.array_windows().find(|[a, b]| a.name == b.name) {
            return Err(IoError::DuplicateTensor {
                path: shards[second.shard.0].path.clone(),
                other: shards[first.shard.0].path.clone(),
                tensor: first.name.clone(),
            });
        }
        Ok(Self { shards, tensors, metadata })
    }

    fn open_indexed(dir: &Path, index_path: &Path, mode: IoMode) -> Result<Self, IoError> {
        let by_shard = index::read(index_path)?;
        if by_shard.is_empty() {
            return Err(IoError::NoShards { path: dir.to_owned() });
        }
        let mut builder = Builder::default();
        for (shard, wanted) in by_shard {
            let path = dir.join(shard);
            if !exists(&path)? {
                return Err(IoError::MissingShard { path: index_path.to_owned(), shard: path });
            }
            let n_before = builder.tensors.len();
            builder.add_shard(path.clone(), mode, |name| wanted.contains(name))?;
            let found = &mut builder.tensors[n_before..];
            found.sort_by(|a, b| a.name.cmp(&b.name));
            // Both are sorted and `found` is a subset, so the first name that differs is missing.
            let mut found = found.iter().map(|tensor| tensor.name.as_str());
            if let Some(missing) = wanted.iter().find(|name| found.next() != Some(name.as_str())) {
                let (path, shard, tensor) = (index_path.to_owned(), path, missing.clone());
                return Err(IoError::MissingTensor { path, shard, tensor });
            }
        }
        let Builder { shards, mut tensors, metadata } = builder;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { shards, tensors, metadata })
    }

    /// Replaces the storage of each shard by the result of `map`: remote storage, a cache, or one with injected faults.
    #[must_use]
    pub fn map_storage(mut self, mut map: impl FnMut(&Path, Arc<dyn ReadAt>) -> Arc<dyn ReadAt>) -> Self {
        for shard in &mut self.shards {
            shard.storage = map(&shard.path, Arc::clone(&shard.storage));
        }
        self
    }

    /// Returns the shards, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Returns the tensor named `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        found.ok().map(|i| &self.tensors[i])
    }

    /// Returns all tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// Returns the total bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.span.len_bytes()).sum()
    }

    /// Returns the merged metadata of all shards; of a duplicate key, the first shard's value.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

#[derive(Default)]
struct Builder {
    shards: Vec<Shard>,
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Builder {
    fn add_shard(&mut self, path: PathBuf, mode: IoMode, keep: impl Fn(&str) -> bool) -> Result<(), IoError> {
        let shard = Shard::open(path, mode)?;
        let header = Header::read(&shard.path, &*shard.storage)?;
        let shard_idx = ShardIdx(self.shards.len());
        let kept = header.tensors.into_iter().filter(|info| keep(&info.name));
        self.tensors.extend(kept.map(|info| Tensor {
            name: info.name,
            dtype: info.dtype,
            shape: info.shape,
            shard: shard_idx,
            span: info.span,
        }));
        for (key, value) in header.metadata {
            self.metadata.entry(key).or_insert(value);
        }
        self.shards.push(shard);
        Ok(())
    }
}

/// Returns whether a file in a model directory is a shard, by its name.
///
/// Hidden files are not: macOS adds a `._NAME` to each file that it copies to a file system without extended
/// attributes, and download tools hide incomplete files.
pub(crate) fn is_shard(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|extension| extension == EXTENSION)
}

fn list_shards(dir: &Path) -> Result<Vec<PathBuf>, IoError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(IoError::cannot_open(dir))? {
        let path = entry.map_err(IoError::cannot_open(dir))?.path();
        if is_shard(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(IoError::NoShards { path: dir.to_owned() });
    }
    // As in mlx-lm, which loads `model*.safetensors`: other files hold adapters, or the same weights under other names.
    if paths.iter().any(|path| has_model_prefix(path)) {
        paths.retain(|path| has_model_prefix(path));
    }
    paths.sort();
    Ok(paths)
}

/// Returns whether the name of a shard begins with `model`, as in mlx-lm and Hugging Face.
fn has_model_prefix(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"model"))
}

fn exists(path: &Path) -> Result<bool, IoError> {
    path.try_exists().map_err(IoError::cannot_open(path))
}
