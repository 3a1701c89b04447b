//! Models on the Hugging Face hub, and the cache of them on this disk that its own tools share.

mod cache;
mod download;
mod error;
mod files;
mod id;
mod listing;
mod settings;
mod transfer;

use std::path::PathBuf;

use crate::output;
use crate::size::Bytes;
use cache::Snapshot;
pub(crate) use error::HubError;
pub(crate) use id::{IdError, ModelId};
use listing::Listing;
use settings::Settings;

/// The hub and its cache, as the environment says.
#[derive(Debug)]
pub(crate) struct Hub {
    settings: Settings,
}

/// A model that is in the cache now.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) dir: PathBuf,
    pub(crate) n_files: usize,
    pub(crate) total_bytes: u64,
}

impl Hub {
    pub(crate) fn from_env() -> Result<Self, HubError> {
        Ok(Self { settings: Settings::from_env()? })
    }

    /// The directory of a model that is in the cache as a whole. Nobody is asked whether it is still the newest.
    pub(crate) fn find(&self, id: &ModelId) -> Option<PathBuf> {
        cache::find(&self.settings.cache_dir, id)
    }

    /// Brings what the hub has of a model now into the cache, without what is there already.
    pub(crate) fn pull(&self, id: &ModelId) -> Result<Pulled, HubError> {
        let settings = &self.settings;
        if settings.is_offline {
            let dir = self
                .find(id)
                .ok_or_else(|| HubError::Offline { id: id.clone(), cache_dir: settings.cache_dir.clone() })?;
            output::note(&format!("{id}: offline, so what the cache has was not compared with the hub"));
            return Ok(Pulled { dir, n_files: 0, total_bytes: 0 });
        }
        let Listing { commit, files } = Listing::fetch(settings, id)?;
        let snapshot = Snapshot::new(&settings.cache_dir, id, &commit);
        let mut missing = Vec::new();
        for file in &files {
            if !snapshot.has(file)? {
                missing.push(file);
            }
        }
        let (n_files, total_bytes) = (files.len(), files.iter().map(|file| file.bytes).sum());
        if !missing.is_empty() {
            let bytes = missing.iter().map(|file| file.bytes).sum();
            let (of, endpoint) = (missing.len(), &settings.endpoint);
            output::note(&format!("Pulling {id} from {endpoint}: {of} of {n_files} files, {}", Bytes(bytes)));
            download::all(settings, id, &snapshot, &missing)?;
        }
        // Last: who looks for the revision finds all of it.
        snapshot.publish(id)?;
        Ok(Pulled { dir: snapshot.dir().to_owned(), n_files, total_bytes })
    }
}
