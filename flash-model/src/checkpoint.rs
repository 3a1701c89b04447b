//! A model directory: its configuration, and the index of its tensors. Weights are not read here.

pub(crate) mod config;
mod fingerprint;
mod packed;
mod samples;
mod unused;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use flash_io::{Catalog, Dtype, IoMode, ReadAt, Tensor};
use flash_kv::Digest;

use crate::ModelError;
use crate::checkpoint::config::{Config, QuantizedFormat};

use packed::PackedExperts;
pub(crate) use packed::{expert_tensor_name, packed_name};
use usage::Usage;

/// A model directory on disk, of which the configuration and the headers of the shards were read.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Config,
    catalog: Catalog,
    packed: PackedExperts,
    /// Tensors and formats that layers have requested.
    usage: Usage,
    io: IoMode,
    /// Digest of configuration and weights, with the directory that it was looked up in.
    digest: OnceLock<(PathBuf, Digest)>,
}

impl Checkpoint {
    /// Opens the model in `dir`. Reads the configuration and the headers of the shards. Weights will be read in the
    /// mode `io`; [`Tuning::find`](flash_io::Tuning::find) finds the fastest one.
    ///
    /// # Errors
    /// [`ModelError`], for a configuration or a shard that is missing or malformed.
    pub fn open(dir: &Path, io: IoMode) -> Result<Self, ModelError> {
        // Checked first, so that a missing directory is not reported as a missing configuration.
        let metadata = dir.metadata().map_err(|error| ModelError::File { path: dir.to_owned(), error })?;
        if !metadata.is_dir() {
            return Err(flash_io::IoError::NotADirectory { path: dir.to_owned() }.into());
        }
        let config = Config::open(dir)?;
        let catalog = Catalog::open(dir, io)?;
        let packed = PackedExperts::of(&catalog)?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            catalog,
            packed,
            usage: Usage::default(),
            io,
            digest: OnceLock::new(),
        })
    }

    /// Replaces the storage that weights are read through, for each shard: a cache, or one with injected faults.
    #[must_use]
    pub fn map_storage(self, map: impl FnMut(&Path, Arc<dyn ReadAt>) -> Arc<dyn ReadAt>) -> Self {
        Self { catalog: self.catalog.map_storage(map), digest: OnceLock::new(), ..self }
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the index of the tensors in the shards.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Opens a file that may grow while it is read, in the I/O mode of the weights; memory-mapped weights fall back to
    /// `pread`.
    pub(crate) fn open_growing(&self, path: &Path) -> Result<Arc<dyn ReadAt>, ModelError> {
        // A memory map keeps the length that its file had when it was mapped.
        let io = if self.io == IoMode::Mmap { IoMode::Pread } else { self.io };
        Ok(flash_io::open(path, io)?)
    }

    /// Returns a digest of the configuration and the weights. It is computed once, and cached in `kv_dir`: see
    /// [`weights_digest`](flash_kv::weights_digest) for the bytes that are read.
    ///
    /// # Errors
    /// [`ModelError::File`] if the configuration cannot be read, [`ModelError::Io`] if weights cannot be read,
    /// [`ModelError::Kv`] if `kv_dir` cannot be read or written.
    pub(crate) fn digest(&self, kv_dir: &Path) -> Result<Digest, ModelError> {
        if let Some((cached_in, digest)) = self.digest.get()
            && cached_in == kv_dir
        {
            return Ok(*digest);
        }
        let path = self.dir.join(crate::checkpoint::config::FILE);
        let config = std::fs::read(&path).map_err(|error| ModelError::File { path, error })?;
        let sample = || fingerprint::sampled_weights(&self.catalog);
        let weights = match fingerprint::weight_files(&self.catalog)? {
            Some(files) => flash_kv::weights_digest(kv_dir, &files, sample)?,
            None => sample()?.digest,
        };
        let mut hasher = blake3::Hasher::new_derive_key("flash-model checkpoint 2");
        hasher.update(&weights.0).update(&config);
        let digest = Digest(*hasher.finalize().as_bytes());
        // Another thread may have set it first, to the same digest.
        let _ = self.digest.set((kv_dir.to_owned(), digest));
        Ok(digest)
    }

    /// Returns whether the checkpoint has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Returns the names of all tensors, including those of the first expert of packed experts.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.catalog.tensors().map(|tensor| tensor.name.as_str()).chain(self.packed.names())
    }

    /// Returns the tensor of this name. Of packed experts, only the first expert has tensors with names.
    pub(crate) fn get(&self, name: &str) -> Option<&Tensor> {
        self.catalog.get(name).or_else(|| self.packed.get(name))
    }

    /// Returns the tensor that holds the packed experts below `path`, `[n_experts, row_bytes]`; `None` if they are not
    /// packed.
    pub(crate) fn rows(&self, path: &str) -> Option<&Tensor> {
        self.packed.rows(path)
    }

    /// Returns the tensor of this name, and records it as used.
    ///
    /// # Errors
    /// [`ModelError::TensorExtent`] if MLX cannot have such a shape;
    /// [`ModelError::MissingTensor`], [`ModelError::TensorDtype`] or [`ModelError::TensorShape`] if it is missing or
    /// not of this kind and shape.
    pub(crate) fn tensor(&self, name: &str, shape: &[u64], kind: TensorKind) -> Result<&Tensor, ModelError> {
        let tensor = self
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor { dir: self.dir.clone(), tensor: name.to_owned() })?;
        self.usage.add_tensor(&tensor.name);
        let path = || self.catalog.shards()[tensor.shard.0].path.clone();
        if !kind.accepts(tensor.dtype) {
            return Err(ModelError::TensorDtype {
                path: path(),
                tensor: name.to_owned(),
                dtype: tensor.dtype,
                expected: kind.expected(),
            });
        }
        if tensor.shape != shape {
            return Err(ModelError::TensorShape {
                path: path(),
                tensor: name.to_owned(),
                shape: tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        if let Some(extent) = too_long(&tensor.shape) {
            return Err(ModelError::TensorExtent { path: path(), tensor: name.to_owned(), extent });
        }
        Ok(tensor)
    }
}

/// Returns the first dimension that does not fit in MLX's type.
fn too_long(shape: &[u64]) -> Option<u64> {
    shape.iter().copied().find(|&extent| i32::try_from(extent).is_err())
}

impl Checkpoint {
    /// Returns the format of the matrix at `path`, of `n_columns` columns, whose tensors are at `stored`; `None` if it
    /// has no scales. The format is the one that the configuration lists for it, else the one inferred from the shapes
    /// of its tensors.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] if the configuration has no quantization settings or the group size does not divide
    /// the columns, and [`ModelError::TensorDtype`] if scales and biases differ.
    pub(crate) fn format(
        &self,
        path: &str,
        stored: &str,
        n_columns: i32,
    ) -> Result<Option<QuantizedFormat>, ModelError> {
        let tensor = |name: &str| self.get(&format!("{stored}.{name}"));
        let Some(scales) = tensor("scales") else { return Ok(None) };
        let default = self.config.default_format().ok_or_else(|| {
            let expected = "it is required, because the weights are quantised";
            self.config.field_error("quantization", &"missing", expected)
        })?;
        if let Some(biases) = tensor("biases") {
            self.expect_dtype_of_scales(scales, biases)?;
        }
        let inferred = || {
            let last = |tensor: &Tensor| tensor.shape.last().copied();
            let (words, groups) = (last(tensor("weight")?)?, last(scales)?);
            QuantizedFormat::infer(n_columns, words, groups, scales.dtype)
        };
        // Shapes that fit no format are rejected later, when they are compared with those of the default format.
        let format = self.config.listed_format(path).or_else(inferred).unwrap_or(default);
        if n_columns % format.group_size != 0 {
            let expected = "the group size must divide every row";
            return Err(self.config.field_error("quantization", &format.group_size, expected));
        }
        self.usage.add_format(stored, format);
        Ok(Some(format))
    }

    /// Returns the format of the quantized matrix whose tensors are at `stored`, if a layer has requested it.
    pub(crate) fn known_format(&self, stored: &str) -> Option<QuantizedFormat> {
        self.usage.format(stored)
    }

    /// Checks that the biases of a quantized matrix have the dtype of its scales.
    fn expect_dtype_of_scales(&self, scales: &Tensor, biases: &Tensor) -> Result<(), ModelError> {
        if scales.dtype == biases.dtype {
            return Ok(());
        }
        Err(ModelError::TensorDtype {
            path: self.catalog.shards()[biases.shard.0].path.clone(),
            tensor: biases.name.clone(),
            dtype: biases.dtype,
            expected: "the dtype of the scales",
        })
    }
}

/// The kind of data in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorKind {
    /// Floats: F32, F16 or BF16.
    Float,
    /// Quantized codes in 32-bit words.
    Codes,
    /// Bytes: scales, or pairs of 4-bit codes.
    Bytes,
}

impl TensorKind {
    /// Returns the kind of data that a parameter with a placeholder of this dtype holds.
    pub(crate) fn of(placeholder: mlx_rs::Dtype) -> Self {
        match placeholder {
            mlx_rs::Dtype::Uint32 => Self::Codes,
            mlx_rs::Dtype::Uint8 => Self::Bytes,
            _ => Self::Float,
        }
    }

    fn accepts(self, dtype: Dtype) -> bool {
        match self {
            Self::Float => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16),
            Self::Codes => dtype == Dtype::U32,
            Self::Bytes => dtype == Dtype::U8,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Float => "F32, F16 or BF16",
            Self::Codes => "U32",
            Self::Bytes => "U8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimension_of_32_bits_is_too_long_for_mlx() {
        assert_eq!(too_long(&[2, i32::MAX as u64]), None);
        assert_eq!(too_long(&[2, 1 << 31]), Some(1 << 31));
        assert_eq!(too_long(&[u64::MAX, 1]), Some(u64::MAX));
    }
}
