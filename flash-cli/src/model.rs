//! A model as someone names it: a directory, or an id on the Hugging Face hub.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::hub::{Hub, HubError, ModelId};

/// What `--model` or `FROM` says. A path that exists wins over an id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelName {
    dir: PathBuf,
    /// What it is if it is no path.
    id: Option<ModelId>,
}

/// Why there is no such model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelNameError {
    #[error("the name of the model is empty")]
    Empty,
    #[error("{dir}: No such file or directory, nor is it the id of a model (ORG/NAME or ORG/NAME@REVISION)")]
    NoSuchModel { dir: PathBuf },
    #[error(transparent)]
    Hub(#[from] HubError),
}

impl ModelName {
    /// As `name` says in a file in `folder`: there, paths are relative to it.
    pub(crate) fn within(folder: &Path, name: &str) -> Self {
        Self { dir: folder.join(name), id: name.parse().ok() }
    }

    /// Where it would be if it is a path.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Finds the directory of the model, and pulls it if it is on the hub and not in the cache.
    pub(crate) fn find(&self) -> Result<PathBuf, ModelNameError> {
        if self.dir.as_os_str().is_empty() {
            return Err(ModelNameError::Empty);
        }
        // Of what is there and cannot be looked at, whoever opens it knows why.
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
        let id = name.to_str().and_then(|name| name.parse().ok());
        Self { dir: name.into(), id }
    }
}
