//! Model names: a directory, or an id on the Hugging Face hub.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::gguf;
use crate::hub::{Hub, HubError, ModelId};

/// Value of `--model` or `FROM`. A path that exists takes precedence over an id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelName {
    dir: PathBuf,
    /// The id, used if the path does not exist.
    id: Option<ModelId>,
}

/// Why a model was not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelNameError {
    #[error("the name of the model is empty")]
    Empty,
    #[error("{dir}: No such file or directory, and not a model id (ORG/NAME or ORG/NAME@REVISION)")]
    NoSuchModel { dir: PathBuf },
    #[error(transparent)]
    Hub(#[from] HubError),
}

impl ModelName {
    /// Interprets a name in a file in `dir`: paths are relative to that directory.
    pub(crate) fn within(dir: &Path, name: &str) -> Self {
        Self { dir: dir.join(name), id: id(name) }
    }

    /// Returns the name as a path.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Returns a directory to run the model from: as [`find`](Self::find), and a GGUF file is converted if the cache does
    /// not have it.
    pub(crate) fn find_to_run(&self) -> anyhow::Result<PathBuf> {
        let found = self.find()?;
        if gguf::is_gguf(&found) { gguf::directory(&found) } else { Ok(found) }
    }

    /// Returns the directory of the model, downloading a model of the hub if it is not in the cache.
    pub(crate) fn find(&self) -> Result<PathBuf, ModelNameError> {
        if self.dir.as_os_str().is_empty() {
            return Err(ModelNameError::Empty);
        }
        // If the check itself fails, the path is used: opening it reports the cause.
        if self.dir.try_exists().unwrap_or(true) {
            return Ok(self.dir.clone());
        }
        let Some(id) = &self.id else {
            return Err(ModelNameError::NoSuchModel { dir: self.dir.clone() });
        };
        Ok(Hub::from_env()?.find_or_pull(id)?)
    }
}

impl From<OsString> for ModelName {
    fn from(name: OsString) -> Self {
        let id = name.to_str().and_then(id);
        Self { dir: name.into(), id }
    }
}

/// Parses a model id. A name with the extension of GGUF is a file, if only a missing one.
fn id(name: &str) -> Option<ModelId> {
    name.parse().ok().filter(|_| Path::new(name).extension().is_none_or(|extension| extension != "gguf"))
}
