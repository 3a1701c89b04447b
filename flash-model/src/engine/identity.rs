//! The identity of stored keys and values: model, arithmetic and storage format.

use std::path::{Path, PathBuf};

use flash_kv::{Digest, Geometry, Identity};

use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::compute::Backend;

/// Version of the arithmetic. Must be raised whenever any bit of keys, values or states changes, so that no context
/// resumes from values that this program would not compute.
const NUMERICS_VERSION: u32 = 1;

/// The settings that determine the bits of keys and values, besides weights, tokens and geometry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComputedBy {
    /// Name of the backend; each rounds differently.
    backend: &'static str,
    /// Experts per token, if the trained number was overridden.
    top_k: Option<usize>,
}

impl ComputedBy {
    pub(crate) fn new(backend: &Backend, top_k: Option<usize>) -> Self {
        Self { backend: backend.name(), top_k }
    }

    /// Returns the digest of a checkpoint together with these settings.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::digest`].
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

/// The identity of an engine's pages, computed on first use: it takes reading weights, and runs that neither store nor
/// load pages do not need it.
#[derive(Debug)]
pub(crate) enum EngineIdentity {
    Known(Identity),
    Unknown(Box<IdentityInputs>),
}

/// The inputs that an identity is computed from.
#[derive(Debug)]
pub(crate) struct IdentityInputs {
    pub checkpoint: Checkpoint,
    pub computed_by: ComputedBy,
    pub geometry: Geometry,
    pub kv_dir: PathBuf,
}

impl EngineIdentity {
    /// Returns the identity, and computes it if this is the first use.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::digest`].
    pub(crate) fn get(&mut self) -> Result<Identity, ModelError> {
        match self {
            Self::Known(identity) => Ok(*identity),
            Self::Unknown(inputs) => {
                let IdentityInputs { checkpoint, computed_by, geometry, kv_dir } = &**inputs;
                let model = computed_by.digest(checkpoint, kv_dir)?;
                let identity = Identity { model, geometry: *geometry };
                *self = Self::Known(identity);
                Ok(identity)
            }
        }
    }
}

/// Returns the placeholder identity of temporary pages, which no other run looks up.
pub(crate) fn temporary(geometry: Geometry) -> Identity {
    Identity { model: Digest([0; 32]), geometry }
}
