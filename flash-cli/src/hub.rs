//! Models on the Hugging Face hub, and the cache of them on this disk that its own tools share.

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
use cache::{Snapshot, State};
pub(crate) use error::HubError;
use files::RemoteFile;
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

    /// The directory of a model. One that is whole in the cache is taken as it is, and nobody is asked whether it is still the
    /// newest; one that is not, or of which that cannot be told, is completed.
    pub(crate) fn find_or_pull(&self, id: &ModelId) -> Result<PathBuf, HubError> {
        let Some(snapshot) = cache::find(&self.settings.cache_dir, id) else { return Ok(self.pull(id)?.dir) };
        let state = snapshot.state();
        if state == State::Whole {
            return Ok(snapshot.dir().to_owned());
        }
        if let Some(variable) = self.settings.offline {
            return without_hub(id, &snapshot, state, variable);
        }
        // The commit that is in the cache is completed: the revision may mean another one by now.
        let error = match self.complete(id, &snapshot) {
            Ok(pulled) => return Ok(pulled.dir),
            Err(HubError::NoRevision { .. }) => return Ok(self.pull(id)?.dir),
            Err(error) => error,
        };
        let dir = snapshot.dir().to_owned();
        match state {
            State::Partial { missing } | State::Unlisted { missing } if !missing.is_empty() => {
                Err(HubError::CannotComplete { id: id.clone(), dir, missing, error: Box::new(error) })
            }
            _ => {
                output::note(&format!("{id}: {}: not compared with the hub ({error})", dir.display()));
                Ok(dir)
            }
        }
    }

    /// Brings what the hub has of a model now into the cache, without what is there already.
    pub(crate) fn pull(&self, id: &ModelId) -> Result<Pulled, HubError> {
        let settings = &self.settings;
        if let Some(variable) = settings.offline {
            let cache_dir = settings.cache_dir.clone();
            let snapshot = cache::find(&cache_dir, id);
            let snapshot =
                snapshot.ok_or_else(|| HubError::Offline { id: id.clone(), cache_dir, variable })?;
            let state = snapshot.state();
            if state == State::Whole {
                output::note(&format!("{id}: offline, so what the cache has was not compared with the hub"));
            }
            let dir = without_hub(id, &snapshot, state, variable)?;
            return Ok(Pulled { dir, n_files: 0, total_bytes: 0 });
        }
        let listing = Listing::fetch(settings, id, id.revision())?;
        let snapshot = Snapshot::new(&settings.cache_dir, id, &listing.commit);
        let pulled = self.bring(id, &snapshot, &listing.files)?;
        // Last: who looks for the revision finds all of it.
        snapshot.publish(id)?;
        Ok(pulled)
    }

    /// Brings what a snapshot lacks of its commit.
    fn complete(&self, id: &ModelId, snapshot: &Snapshot) -> Result<Pulled, HubError> {
        let Listing { files, .. } = Listing::fetch(&self.settings, id, snapshot.commit())?;
        self.bring(id, snapshot, &files)
    }

    fn bring(&self, id: &ModelId, snapshot: &Snapshot, files: &[RemoteFile]) -> Result<Pulled, HubError> {
        let settings = &self.settings;
        let mut missing = Vec::new();
        for file in files {
            if !snapshot.has(file)? {
                missing.push(file);
            }
        }
        match snapshot.keep_listing(files) {
            // A cache that cannot be written to can be used as it is.
            Err(_) if missing.is_empty() => {}
            kept => kept?,
        }
        let (n_files, total_bytes) = (files.len(), files.iter().map(|file| file.bytes).sum());
        if !missing.is_empty() {
            let bytes = missing.iter().map(|file| file.bytes).sum();
            let (of, endpoint) = (missing.len(), &settings.endpoint);
            output::note(&format!("Pulling {id} from {endpoint}: {of} of {n_files} files, {}", Bytes(bytes)));
            download::all(settings, id, snapshot, &missing)?;
        }
        Ok(Pulled { dir: snapshot.dir().to_owned(), n_files, total_bytes })
    }
}

/// The directory of a snapshot that cannot be compared with the hub, unless a file is known to be missing.
fn without_hub(
    id: &ModelId,
    snapshot: &Snapshot,
    state: State,
    variable: &'static str,
) -> Result<PathBuf, HubError> {
    let dir = snapshot.dir().to_owned();
    match state {
        State::Whole => Ok(dir),
        State::Unlisted { missing } if missing.is_empty() => {
            output::note(&format!(
                "{id}: another tool has filled {}, and with {variable} nobody can tell whether all files are there",
                dir.display()
            ));
            Ok(dir)
        }
        State::Partial { missing } | State::Unlisted { missing } => {
            Err(HubError::Incomplete { id: id.clone(), dir, missing, variable })
        }
    }
}
