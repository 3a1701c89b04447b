//! Downloads models from the Hugging Face hub to the cache that is shared with Hugging Face's tools.

mod cache;
mod completeness;
mod download;
mod error;
mod files;
mod id;
mod listing;
mod retry;
mod settings;
mod transfer;
mod tree;

use std::path::PathBuf;

use crate::output;
use crate::size::Bytes;
use cache::{Snapshot, SnapshotState};
pub(crate) use error::HubError;
use files::RemoteFile;
pub(crate) use id::{IdError, ModelId};
use listing::Listing;
use settings::Settings;

/// The hub and its cache, configured by environment variables.
#[derive(Debug)]
pub(crate) struct Hub {
    settings: Settings,
}

/// A model in the cache.
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

    /// Returns the directory of a model. A model that is complete in the cache is used without asking the hub for a
    /// newer version; one that is missing, incomplete, or not known to be complete is downloaded.
    pub(crate) fn find_or_pull(&self, id: &ModelId) -> Result<PathBuf, HubError> {
        let Some(snapshot) = cache::find(&self.settings.cache_dir, id) else { return Ok(self.pull(id)?.dir) };
        let state = snapshot.state();
        if state == SnapshotState::Complete {
            return Ok(snapshot.dir().to_owned());
        }
        if let Some(variable) = self.settings.offline {
            return without_hub(id, &snapshot, state, variable);
        }
        // Completes the cached commit: the revision may point to another commit by now.
        let error = match self.complete(id, &snapshot) {
            Ok(pulled) => return Ok(pulled.dir),
            Err(HubError::NoRevision { .. }) => return Ok(self.pull(id)?.dir),
            Err(error) => error,
        };
        let dir = snapshot.dir().to_owned();
        match state {
            SnapshotState::Partial { missing } | SnapshotState::Unlisted { missing }
                if !missing.is_empty() =>
            {
                Err(HubError::CannotComplete { id: id.clone(), dir, missing, error: Box::new(error) })
            }
            _ => {
                output::note(&format!("{id}: {}: not compared with the hub: {error}", dir.display()));
                Ok(dir)
            }
        }
    }

    /// Downloads the files of the current version of a model that are not in the cache.
    pub(crate) fn pull(&self, id: &ModelId) -> Result<Pulled, HubError> {
        let settings = &self.settings;
        if let Some(variable) = settings.offline {
            let cache_dir = settings.cache_dir.clone();
            let snapshot = cache::find(&cache_dir, id);
            let snapshot =
                snapshot.ok_or_else(|| HubError::Offline { id: id.clone(), cache_dir, variable })?;
            let state = snapshot.state();
            if state == SnapshotState::Complete {
                output::note(&format!("{id}: offline; the cache was not compared with the hub"));
            }
            let dir = without_hub(id, &snapshot, state, variable)?;
            return Ok(Pulled { dir, n_files: 0, total_bytes: 0 });
        }
        let listing = Listing::fetch(settings, id, id.revision())?;
        let snapshot = Snapshot::new(&settings.cache_dir, id, &listing.commit);
        let pulled = self.download_missing(id, &snapshot, &listing.files)?;
        // The reference is written last, so that a revision in the cache is complete.
        snapshot.publish(id)?;
        Ok(pulled)
    }

    /// Downloads the missing files of a snapshot.
    fn complete(&self, id: &ModelId, snapshot: &Snapshot) -> Result<Pulled, HubError> {
        let Listing { files, .. } = Listing::fetch(&self.settings, id, snapshot.commit())?;
        self.download_missing(id, snapshot, &files)
    }

    /// Downloads those of `files` that the snapshot lacks.
    fn download_missing(
        &self,
        id: &ModelId,
        snapshot: &Snapshot,
        files: &[RemoteFile],
    ) -> Result<Pulled, HubError> {
        let settings = &self.settings;
        let mut missing = Vec::new();
        for file in files {
            if !snapshot.has(file)? {
                missing.push(file);
            }
        }
        match snapshot.keep_listing(files) {
            // A complete snapshot in a read-only cache is usable.
            Err(_) if missing.is_empty() => {}
            kept => kept?,
        }
        let (n_files, total_bytes) = (files.len(), files.iter().map(|file| file.bytes).sum());
        if !missing.is_empty() {
            let bytes = missing.iter().map(|file| file.bytes).sum();
            let (of, endpoint) = (missing.len(), &settings.endpoint);
            output::note(&format!(
                "Downloading {id} from {endpoint}: {of} of {n_files} files, {}",
                Bytes(bytes)
            ));
            download::all(settings, id, snapshot, &missing)?;
        }
        Ok(Pulled { dir: snapshot.dir().to_owned(), n_files, total_bytes })
    }
}

/// Returns the directory of a snapshot while offline, or an error if a file is known to be missing.
fn without_hub(
    id: &ModelId,
    snapshot: &Snapshot,
    state: SnapshotState,
    variable: &'static str,
) -> Result<PathBuf, HubError> {
    let dir = snapshot.dir().to_owned();
    match state {
        SnapshotState::Complete => Ok(dir),
        SnapshotState::Unlisted { missing } if missing.is_empty() => {
            output::note(&format!(
                "{id}: {} was downloaded by another tool and may be incomplete; it cannot be checked while {variable} is set",
                dir.display()
            ));
            Ok(dir)
        }
        SnapshotState::Partial { missing } | SnapshotState::Unlisted { missing } => {
            Err(HubError::Incomplete { id: id.clone(), dir, missing, variable })
        }
    }
}
