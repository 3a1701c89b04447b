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

/// How much of the header is read at a time, in bytes.
const READ_BYTES: usize = 64 << 10;

/// An open GGUF model: its header in memory, its data on disk, in one file or in several parts of one.
#[derive(Debug)]
pub struct GgufFile {
    /// The file, or all parts in their order.
    parts: Vec<Part>,
    /// The metadata of the first part, and the tensors of all.
    header: Header,
    /// In which part each tensor is that is not in the first one.
    part_of: HashMap<String, usize>,
}

/// One file.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
}

impl GgufFile {
    /// Opens `path` and reads its header; no tensor is read. If it is a part of a model that was split
    /// (`NAME-00002-of-00003.gguf`), all parts are opened beside it.
    ///
    /// # Errors
    /// [`ConvertError::Open`], [`ConvertError::Gguf`], or [`ConvertError::Split`] if parts do not belong together.
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

    /// Puts the parts together.
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

    /// Where the file is, or the first part of a split model.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// What the file says of itself; of a split model, the metadata of its first part and the tensors of all.
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
        let part = &self.parts[self.part_of.get(&tensor.name).copied().unwrap_or(0)];
        part.file.read_exact_at(buf, offset).map_err(|error| ConvertError::Read {
            path: part.path.clone(),
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
        found: Result<Option<T>, GgufError>,
    ) -> Result<T, ConvertError> {
        self.checked(
            found.and_then(|found| found.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })),
        )
    }

    /// Puts this file's path to an error of its header.
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
        source::no_pointer(path, source.fill_buf().map_err(open)?)?;
        let header = Header::parse(source, len)
            .map_err(|fault| ConvertError::Gguf { path: path.to_owned(), fault })?;
        Ok((Self { path: path.to_owned(), file }, header))
    }
}
