//! Typed access to the settings of an architecture, the metadata keys prefixed with its name.

use super::family::Architecture;
use crate::error::ConvertError;
use crate::gguf::GgufFile;

/// The settings of a model in a GGUF file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) gguf: &'a GgufFile,
    pub(super) architecture: Architecture,
}

impl<'a> Settings<'a> {
    /// Returns the full metadata key of a setting.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.gguf)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.gguf.metadata().get(&self.key(name)).is_some()
    }

    pub(super) fn u32(&self, name: &str) -> Result<Option<u32>, ConvertError> {
        self.gguf.checked(self.gguf.metadata().u32(&self.key(name)))
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f32>, ConvertError> {
        self.gguf.checked(self.gguf.metadata().float(&self.key(name)))
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ConvertError> {
        self.gguf.checked(self.gguf.metadata().boolean(&self.key(name)))
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>, ConvertError> {
        self.gguf.checked(self.gguf.metadata().string(&self.key(name)))
    }

    /// Returns a required float.
    pub(super) fn required_float(&self, name: &str) -> Result<f32, ConvertError> {
        let key = self.key(name);
        self.gguf.required(&key, self.gguf.metadata().float(&key))
    }

    /// Returns a required positive count.
    pub(super) fn positive(&self, name: &str) -> Result<u32, ConvertError> {
        let key = self.key(name);
        match self.gguf.required(&key, self.gguf.metadata().u32(&key))? {
            0 => Err(self.unsupported(name, "0".to_owned(), "it must be positive")),
            count => Ok(count),
        }
    }

    /// Returns the error of a setting that config.json cannot express.
    pub(super) fn unsupported(&self, name: &str, found: String, reason: &'static str) -> ConvertError {
        ConvertError::Unsupported { path: self.gguf.path().to_owned(), key: self.key(name), found, reason }
    }
}
