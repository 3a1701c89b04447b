use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::header::{Header, TensorInfo};
use super::metadata::Metadata;
use super::split::Split;
use crate::error::ConvertError;
use crate::source;

/// Buffer size for reading the header, in bytes.
const READ_BYTES: usize = 64 << 10;

/// An open GGUF model, in one file or split into parts. The header is in memory, tensor data is read on demand.
#[derive(Debug)]
pub struct GgufFile {
    /// The file, or all parts in order.
    parts: Vec<Part>,
    /// The metadata of the first part, and the tensors of all parts.
    header: Header,
    /// Part index of each tensor outside the first part.
    part_of: HashMap<String, usize>,
}

/// An open file of the model.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
}

impl GgufFile {
    /// Opens `path` and reads its header, but no tensor data. If it is a part of a split model
    /// (`NAME-00002-of-00003.gguf`), all parts in its directory are opened.
    ///
    /// # Errors
    /// [`ConvertError::Open`], [`ConvertError::Gguf`], or [`ConvertError::Split`] if the parts do not form one model.
    pub fn open(path: &Path) -> Result<Self, ConvertError> {
        let (part, header) = Part::open(path)?;
        let Some(split) = Split::of(path, &header)? else {
            return Ok(Self { parts: vec![part], header, part_of: HashMap::new() });
        };
        let mut given = Some((part, header));
        let (mut parts, mut headers) = (Vec::new(), Vec::new());
        for (idx, path) in split.paths().into_iter().enumerate() {
            let is_given = idx == split.no();
            let (part, header) = match given.take_if(|_| is_given) {
                Some(opened) => opened,
                None => Part::open(&path).map_err(|error| split.missing(error))?,
            };
            split.check(&part.path, idx, &header)?;
            parts.push(part);
            headers.push(header);
        }
        Self::join(parts, headers, &split)
    }

    /// Merges the tensor tables of all parts.
    fn join(parts: Vec<Part>, headers: Vec<Header>, split: &Split) -> Result<Self, ConvertError> {
        let mut headers = headers.into_iter();
        let Some(mut header) = headers.next() else { unreachable!("a split model has a part") };
        let mut part_of = HashMap::new();
        for (idx, more) in (1..).zip(headers) {
            for tensor in more.tensors {
                let is_new = part_of.insert(tensor.name.clone(), idx).is_none();
                if !is_new || header.tensors.iter().any(|first| first.name == tensor.name) {
                    let fault = GgufError::DuplicateTensor { tensor: tensor.name };
                    return Err(ConvertError::Gguf { path: parts[idx].path.clone(), fault });
                }
                header.tensors.push(tensor);
            }
        }
        split.check_tensors(&parts[0].path, &header)?;
        Ok(Self { parts, header, part_of })
    }

    /// Returns the path of the file, or of the first part of a split model.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// Returns the header; for a split model, the metadata of the first part and the tensors of all parts.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the key-value metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// Returns the tensor named `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Fills `buf` with the tensor's bytes, starting at `offset` within the tensor.
    ///
    /// # Errors
    /// [`ConvertError::Read`] if the read fails or the file has been truncated.
    ///
    /// # Panics
    /// If the range exceeds the tensor.
    pub fn read_at(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<(), ConvertError> {
        assert!(offset + buf.len() as u64 <= tensor.bytes, "read exceeds the tensor");
        let offset = tensor.offset + offset;
        let part = &self.parts[self.part_of.get(&tensor.name).copied().unwrap_or(0)];
        part.file.read_exact_at(buf, offset).map_err(|error| ConvertError::Read {
            path: part.path.clone(),
            tensor: tensor.name.clone(),
            offset,
            wanted_bytes: buf.len() as u64,
            error,
        })
    }

    /// Returns the value of a required key; errors get this file's path.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        found: Result<Option<T>, GgufError>,
    ) -> Result<T, ConvertError> {
        self.checked(
            found.and_then(|found| found.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })),
        )
    }

    /// Adds this file's path to a header error.
    pub(crate) fn checked<T>(&self, result: Result<T, GgufError>) -> Result<T, ConvertError> {
        result.map_err(|fault| ConvertError::Gguf { path: self.path().to_owned(), fault })
    }
}

impl Part {
    /// Opens a file and reads its header.
    fn open(path: &Path) -> Result<(Self, Header), ConvertError> {
        let open = |error| ConvertError::Open { path: path.to_owned(), error };
        let file = File::open(path).map_err(open)?;
        let len = file.metadata().map_err(open)?.len();
        let mut source = BufReader::with_capacity(READ_BYTES, &file);
        source::reject_lfs_pointer(path, source.fill_buf().map_err(open)?)?;
        let header = Header::parse(source, len)
            .map_err(|fault| ConvertError::Gguf { path: path.to_owned(), fault })?;
        Ok((Self { path: path.to_owned(), file }, header))
    }
}
