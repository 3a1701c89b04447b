//! What keys and values follow from besides tokens: which model, computed how, kept how.

use std::path::{Path, PathBuf};

use flash_kv::{Digest, Geometry, Identity};

use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::compute::Backend;

/// Version of the arithmetic. To be changed whenever a bit of keys, values or states is computed otherwise than before, so that
/// no context goes on with numbers that this program would not compute.
const NUMERICS_VERSION: u32 = 1;

/// A model as pages know it: everything that decides on their bits but tokens and geometry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComputedBy {
    /// Each backend rounds otherwise.
    backend: &'static str,
    /// How many experts a token takes, if not as many as the model was trained with.
    top_k: Option<usize>,
}

impl ComputedBy {
    pub(crate) fn new(backend: &Backend, top_k: Option<usize>) -> Self {
        Self { backend: backend.name(), top_k }
    }

    /// Returns the digest of a checkpoint that is computed so.
    ///
    /// # Errors
    /// As [`Checkpoint::digest`].
    pub(crate) fn digest(&self, checkpoint: &Checkpoint, kv_dir: &Path) -> Result<Digest, ModelError> {
        let content = checkpoint.digest(kv_dir)?;
        let mut hasher = blake3::Hasher::new_derive_key("flash-model model whose pages are kept");
        hasher.update(&content.0);
        hasher.update(&NUMERICS_VERSION.to_le_bytes());
        hasher.update(&(self.top_k.unwrap_or(0) as u64).to_le_bytes());
        hasher.update(self.backend.as_bytes());
        Ok(Digest(*hasher.finalize().as_bytes()))
    }
}

/// The identity of an engine's pages. A run that neither keeps nor takes any never needs it, and weights are read to know it.
#[derive(Debug)]
pub(crate) enum EngineIdentity {
    Known(Identity),
    Unasked(Box<Unasked>),
}

/// What an identity is found out from.
#[derive(Debug)]
pub(crate) struct Unasked {
    pub checkpoint: Checkpoint,
    pub computed_by: ComputedBy,
    pub geometry: Geometry,
    pub kv_dir: PathBuf,
}

impl EngineIdentity {
    /// Returns the identity; the first time, it may have to be found out.
    ///
    /// # Errors
    /// As [`Checkpoint::digest`].
    pub(crate) fn get(&mut self) -> Result<Identity, ModelError> {
        match self {
            Self::Known(identity) => Ok(*identity),
            Self::Unasked(unasked) => {
                let Unasked { checkpoint, computed_by, geometry, kv_dir } = &**unasked;
                let model = computed_by.digest(checkpoint, kv_dir)?;
                let identity = Identity { model, geometry: *geometry };
                *self = Self::Known(identity);
                Ok(identity)
            }
        }
    }
}

/// The identity of pages that end with their run: nobody looks for them.
pub(crate) fn of_a_run(geometry: Geometry) -> Identity {
    Identity { model: Digest([0; 32]), geometry }
}
