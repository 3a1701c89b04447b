use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::header::{Header, TensorInfo};
use super::metadata::Metadata;
use crate::error::ConvertError;

/// How much of the header is read at a time, in bytes.
const READ_BYTES: usize = 64 << 10;

/// An open GGUF file: its header in memory, its data on disk.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    header: Header,
}

impl GgufFile {
    /// Opens `path` and reads its header; no tensor is read.
    ///
    /// # Errors
    /// [`ConvertError::Open`] or [`ConvertError::Gguf`].
    pub fn open(path: &Path) -> Result<Self, ConvertError> {
        let open = |error| ConvertError::Open { path: path.to_owned(), error };
        let file = File::open(path).map_err(open)?;
        let len = file.metadata().map_err(open)?.len();
        let source = BufReader::with_capacity(READ_BYTES, &file);
        let header = Header::parse(source, len)
            .map_err(|fault| ConvertError::Gguf { path: path.to_owned(), fault })?;
        Ok(Self { path: path.to_owned(), file, header })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Fills `buf` with the tensor's bytes from `offset` (within the tensor) on.
    ///
    /// # Errors
    /// [`ConvertError::Read`] if the system cannot, or if the file has become shorter.
    ///
    /// # Panics
    /// If the range does not lie in the tensor.
    pub fn read_at(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<(), ConvertError> {
        assert!(offset + buf.len() as u64 <= tensor.bytes, "a read beyond the tensor");
        let offset = tensor.offset + offset;
        self.file.read_exact_at(buf, offset).map_err(|error| ConvertError::Read {
            path: self.path.clone(),
            tensor: tensor.name.clone(),
            offset,
            wanted_bytes: buf.len() as u64,
            error,
        })
    }

    /// Puts this file's path to a getter's error, and refuses its absence.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        found: Result<Option<T>, super::GgufError>,
    ) -> Result<T, ConvertError> {
        self.checked(
            found.and_then(|found| found.ok_or_else(|| super::GgufError::MissingKey { key: key.to_owned() })),
        )
    }

    /// Puts this file's path to an error of its header.
    pub(crate) fn checked<T>(&self, result: Result<T, super::GgufError>) -> Result<T, ConvertError> {
        result.map_err(|fault| ConvertError::Gguf { path: self.path.clone(), fault })
    }
}
