//! Opening of regular files.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::IoError;

/// Opens a regular file with `open`, and rejects anything else before opening it.
///
/// Opening a directory would fail only at the first read, and opening a pipe would wait for a writer.
pub(super) fn open_file(path: &Path, open: impl FnOnce() -> io::Result<File>) -> Result<File, IoError> {
    let opened = std::fs::metadata(path).and_then(|metadata| match metadata {
        metadata if metadata.is_file() => open(),
        metadata if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    });
    opened.map_err(IoError::cannot_open(path))
}
