//! A model directory, opened: its configuration and where its tensors lie. No weight has been read.

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
pub(crate) use packed::{member_name, rows_name};
use usage::Usage;

/// A model on disk.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Config,
    catalog: Catalog,
    packed: PackedExperts,
    /// What was asked for so far.
    usage: Usage,
    io: IoMode,
    /// Of configuration and weights, and the directory whose list of models was asked.
    digest: OnceLock<(PathBuf, Digest)>,
}

impl Checkpoint {
    /// Opens the model in `dir`; reads headers only.
    ///
    /// # Errors
    /// [`ModelError`], for a configuration or a shard that is missing or malformed.
    pub fn open(dir: &Path, io: IoMode) -> Result<Self, ModelError> {
        // The directory itself first: a model without one is not a model without a configuration.
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

    /// The same model, its weights read through other storage.
    #[must_use]
    pub fn map_storage(self, map: impl FnMut(&Path, Arc<dyn ReadAt>) -> Arc<dyn ReadAt>) -> Self {
        Self { catalog: self.catalog.map_storage(map), digest: OnceLock::new(), ..self }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the model says of itself.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where its tensors lie.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Opens a file that is read as the weights are, and grows meanwhile.
    pub(crate) fn open_beside(&self, path: &Path) -> Result<Arc<dyn ReadAt>, ModelError> {
        // A map has the length that its file had.
        let io = if self.io == IoMode::Mmap { IoMode::Pread } else { self.io };
        Ok(flash_io::open(path, io)?)
    }

    /// Returns a digest of the configuration and the weights. It is found out once: see
    /// [`weights_digest`](flash_kv::weights_digest) for what is read, and remembered in `kv_dir`.
    ///
    /// # Errors
    /// [`ModelError::File`] if the configuration is gone, [`ModelError::Io`] if weights cannot be read, [`ModelError::Kv`] if
    /// `kv_dir` cannot be read or written.
    pub(crate) fn digest(&self, kv_dir: &Path) -> Result<Digest, ModelError> {
        if let Some((known_in, digest)) = self.digest.get()
            && known_in == kv_dir
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
        // Another thread may have been first: it found the same.
        let _ = self.digest.set((kv_dir.to_owned(), digest));
        Ok(digest)
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// What all tensors are called, with those of the first of experts in rows.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.catalog.tensors().map(|tensor| tensor.name.as_str()).chain(self.packed.names())
    }

    /// The tensor of that name. Of experts in rows, the first one's can be asked for.
    pub(crate) fn get(&self, name: &str) -> Option<&Tensor> {
        self.catalog.get(name).or_else(|| self.packed.get(name))
    }

    /// The tensor that has the experts below `path` in its rows, if they lie so: `[n_experts, row_bytes]`.
    pub(crate) fn rows(&self, path: &str) -> Option<&Tensor> {
        self.packed.rows(path)
    }

    /// The tensor of that name, which must have that shape and kind.
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
        Ok(tensor)
    }
}

impl Checkpoint {
    /// Returns how the matrix at `path`, of `n_columns` columns, is quantised, if it has scales: as the configuration lists
    /// it, else as the shapes of its tensors say, which are at `stored`.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] if the configuration says nothing of quantised weights, and
    /// [`ModelError::TensorDtype`] if scales and biases differ.
    pub(crate) fn format(
        &self,
        path: &str,
        stored: &str,
        n_columns: i32,
    ) -> Result<Option<QuantizedFormat>, ModelError> {
        let tensor = |name: &str| self.get(&format!("{stored}.{name}"));
        let Some(scales) = tensor("scales") else { return Ok(None) };
        let default = self.config.default_format().ok_or_else(|| {
            let expected = "the weights are quantised, so it must say how";
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
        // Shapes that no format has are refused when they are compared with the default's.
        let format = self.config.listed_format(path).or_else(inferred).unwrap_or(default);
        if n_columns % format.group_size != 0 {
            let expected = "the group size must divide every row";
            return Err(self.config.field_error("quantization", &format.group_size, expected));
        }
        self.usage.add_format(stored, format);
        Ok(Some(format))
    }

    /// The format of the quantised matrix whose tensors are at `stored`, once a layer was made of it.
    pub(crate) fn known_format(&self, stored: &str) -> Option<QuantizedFormat> {
        self.usage.format(stored)
    }

    /// Checks that the biases of a quantised matrix have the dtype of its scales.
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

/// What a tensor may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorKind {
    /// Numbers.
    Float,
    /// Quantised codes.
    Codes,
    /// A byte each: scales, or codes two by two.
    Bytes,
}

impl TensorKind {
    /// What a parameter may hold in whose place there is an array of this dtype.
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
