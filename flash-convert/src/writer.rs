//! Atomic creation of a model directory: written to a temporary directory and renamed into place when complete.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::TempDir;

use crate::error::ConvertError;

/// Permissions of the output directory, before the umask.
const DIR_MODE: u32 = 0o777;

/// An output directory that is being written under a temporary name.
#[derive(Debug)]
pub(crate) struct OutDir {
    path: PathBuf,
    temp: TempDir,
    wanted_bytes: u64,
}

impl OutDir {
    /// Creates a temporary directory next to `path`, which must be absent or empty. Dropping it before
    /// [`finish`](Self::finish) deletes everything written.
    pub(crate) fn new(path: &Path, wanted_bytes: u64) -> Result<Self, ConvertError> {
        let is_free = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(source) if source.kind() == ErrorKind::NotFound => true,
            Err(source) if source.kind() == ErrorKind::NotADirectory => false,
            Err(source) => return Err(ConvertError::write(path, wanted_bytes, source)),
        };
        if !is_free {
            return Err(ConvertError::OutputExists { path: path.to_owned() });
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let temp = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(Permissions::from_mode(DIR_MODE))
            .tempdir_in(parent)
            .map_err(|source| ConvertError::write(parent, wanted_bytes, source))?;
        Ok(Self { path: path.to_owned(), temp, wanted_bytes })
    }

    /// Creates a file in the directory.
    pub(crate) fn create(&self, name: &str) -> Result<OutFile, ConvertError> {
        let path = self.temp.path().join(name);
        match File::create_new(&path) {
            Ok(file) => Ok(OutFile {
                // Error messages show the final path instead of the temporary one.
                path: self.path.join(name),
                file,
                wanted_bytes: self.wanted_bytes,
            }),
            Err(source) => Err(self.error(name, source)),
        }
    }

    /// Writes a JSON file, indented or compact.
    pub(crate) fn write_json(
        &self,
        name: &str,
        value: &impl Serialize,
        indented: bool,
    ) -> Result<(), ConvertError> {
        let text = if indented { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        self.write(name, &text.map_err(|error| self.error(name, error.into()))?)
    }

    /// Writes a whole file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ConvertError> {
        let mut file = self.create(name)?;
        file.file.write_all(bytes).map_err(|source| self.error(name, source))?;
        file.finish()
    }

    /// Syncs the directory to disk and renames it into place.
    pub(crate) fn finish(self) -> Result<(), ConvertError> {
        let error = |source| ConvertError::write(&self.path, self.wanted_bytes, source);
        sync_dir(self.temp.path()).map_err(error)?;
        // `rename` replaces an empty directory, and fails if a non-empty one has appeared meanwhile.
        fs::rename(self.temp.path(), &self.path).map_err(error)?;
        let parent = self.temp.path().parent().map(Path::to_owned);
        let _moved = self.temp.keep();
        if let Some(parent) = parent {
            sync_dir(&parent).map_err(|source| ConvertError::write(&self.path, self.wanted_bytes, source))?;
        }
        Ok(())
    }

    /// Returns the error of an interrupted conversion.
    pub(crate) fn interrupted(&self) -> ConvertError {
        ConvertError::Interrupted { path: self.path.clone() }
    }

    fn error(&self, name: &str, source: std::io::Error) -> ConvertError {
        ConvertError::write(&self.path.join(name), self.wanted_bytes, source)
    }
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// A file of an [`OutDir`].
#[derive(Debug)]
pub(crate) struct OutFile {
    path: PathBuf,
    file: File,
    wanted_bytes: u64,
}

impl OutFile {
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| ConvertError::write(&self.path, self.wanted_bytes, source))
    }

    /// Syncs the file to disk.
    pub(crate) fn finish(self) -> Result<(), ConvertError> {
        self.file.sync_all().map_err(|source| ConvertError::write(&self.path, self.wanted_bytes, source))
    }
}
