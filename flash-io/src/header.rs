//! Headers of safetensors files: eight bytes of length, then JSON that describes every tensor.
//!
//! The parser is pure and safe on hostile input: it allocates in proportion to the header's length, never to sizes that
//! the header states, and does not recurse.

mod json;

use std::collections::BTreeMap;
use std::path::Path;

use crate::dtype::Dtype;
use crate::error::{HeaderFault, IoError};
use crate::lfs::{LFS_POINTER_BYTES_MAX, LfsPointer};
use crate::span::Span;
use crate::storage::{ReadAt, read_full};

/// Maximum length of a header in bytes, as in the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the length field in front of the header, a little-endian `u64`.
const LENGTH_BYTES: u64 = 8;

/// Name, type, shape and location of a tensor in one file. In a [`Catalog`](crate::Catalog) it is a
/// [`Tensor`](crate::Tensor), which also names its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in its file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extent of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Byte range, relative to the start of the file.
    pub span: Span,
}

/// Validated header of one safetensors file.
///
/// Every tensor's span lies in the file, has the length that type and shape need, and overlaps no other; together they
/// fill the file from [`data_start`](Self::data_start) to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Tensors in the order of their offsets.
    pub tensors: Vec<TensorInfo>,
    /// Free-form metadata of the file's writer.
    pub metadata: BTreeMap<String, String>,
    /// Offset of the first byte after the header.
    pub data_start: u64,
}

impl Header {
    /// Reads and parses the header of a file, and reads no data.
    ///
    /// `path` is only for errors.
    ///
    /// # Errors
    /// [`IoError::Open`] if the file cannot be read, [`IoError::LfsPointer`] if it is one, [`IoError::Header`] if the
    /// header is invalid.
    pub fn read(path: &Path, storage: &dyn ReadAt) -> Result<Self, IoError> {
        let unreadable = IoError::cannot_open(path);
        let invalid = |fault| IoError::Header { path: path.to_owned(), fault };

        let file_bytes = storage.len_bytes().map_err(&unreadable)?;
        let mut prefix = [0; LENGTH_BYTES as usize];
        if read_full(storage, 0, &mut prefix).map_err(&unreadable)? < prefix.len() {
            return Err(invalid(HeaderFault::FileTooShort { file_bytes }));
        }
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > MAX_HEADER_BYTES {
            // The text of an LFS pointer, read as a length, exceeds the maximum.
            let mut start = [0; LFS_POINTER_BYTES_MAX];
            let start_bytes = read_full(storage, 0, &mut start).map_err(&unreadable)?;
            return Err(match LfsPointer::detect(&start[..start_bytes]) {
                Some(pointer) => IoError::LfsPointer { path: path.to_owned(), pointer },
                None => invalid(HeaderFault::TooLong { header_bytes, max_bytes: MAX_HEADER_BYTES }),
            });
        }
        let past_end = HeaderFault::PastEndOfFile { header_bytes, file_bytes };
        if LENGTH_BYTES + header_bytes > file_bytes {
            return Err(invalid(past_end));
        }
        let mut json = vec![0; header_bytes as usize];
        if read_full(storage, LENGTH_BYTES, &mut json).map_err(&unreadable)? < json.len() {
            return Err(invalid(past_end));
        }
        parse(&json, file_bytes).map_err(invalid)
    }

    /// Parses and validates a header.
    ///
    /// `header_json` is the text between the length field and the data, `file_bytes` the length of the whole file;
    /// `path` is only for errors.
    ///
    /// # Errors
    /// [`IoError::Header`] with the first fault found.
    pub fn parse(path: &Path, header_json: &[u8], file_bytes: u64) -> Result<Self, IoError> {
        parse(header_json, file_bytes).map_err(|fault| IoError::Header { path: path.to_owned(), fault })
    }
}

fn parse(header_json: &[u8], file_bytes: u64) -> Result<Header, HeaderFault> {
    let header_bytes = header_json.len() as u64;
    if header_bytes > MAX_HEADER_BYTES {
        return Err(HeaderFault::TooLong { header_bytes, max_bytes: MAX_HEADER_BYTES });
    }
    let data_start = LENGTH_BYTES + header_bytes;
    let Some(data_bytes) = file_bytes.checked_sub(data_start) else {
        return Err(HeaderFault::PastEndOfFile { header_bytes, file_bytes });
    };
    let text = std::str::from_utf8(header_json)
        .map_err(|error| HeaderFault::NotUtf8 { valid_bytes: error.valid_up_to() })?;
    if !text.starts_with('{') {
        return Err(HeaderFault::NotAnObject);
    }

    let mut raw = json::parse(text)?;
    reject_duplicates(&raw.tensors)?;
    for tensor in &raw.tensors {
        check_size(tensor, data_bytes)?;
    }
    // An empty tensor sorts before the tensor that begins at the same offset.
    raw.tensors.sort_by_key(|tensor| tensor.offsets);
    check_tiling(&raw.tensors, data_bytes)?;

    let tensors = raw.tensors.into_iter().map(|tensor| TensorInfo {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        span: Span::new(data_start + tensor.offsets[0], data_start + tensor.offsets[1]),
    });
    Ok(Header { tensors: tensors.collect(), metadata: raw.metadata.unwrap_or_default(), data_start })
}

fn reject_duplicates(tensors: &[json::RawTensor]) -> Result<(), HeaderFault> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(HeaderFault::DuplicateTensor { tensor: pair[0].to_owned() }),
        None => Ok(()),
    }
}

/// Checks that offsets, shape and element type of a tensor agree with each other and with the file.
fn check_size(tensor: &json::RawTensor, data_bytes: u64) -> Result<(), HeaderFault> {
    let (dtype, [begin, end]) = (tensor.dtype, tensor.offsets);
    let name = || tensor.name.clone();
    let shape = || tensor.shape.clone();
    if begin > end {
        return Err(HeaderFault::BackwardOffsets { tensor: name(), begin, end });
    }
    if end > data_bytes {
        return Err(HeaderFault::OutOfRange { tensor: name(), end, data_bytes });
    }
    let n_bits = tensor.shape.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent));
    let Some(n_bits) = n_bits.and_then(|n| n.checked_mul(dtype.bits())) else {
        return Err(HeaderFault::ShapeOverflow { tensor: name(), dtype, shape: shape() });
    };
    if !n_bits.is_multiple_of(8) {
        return Err(HeaderFault::PartialByte { tensor: name(), dtype, shape: shape() });
    }
    let (wanted_bytes, span_bytes) = (n_bits / 8, end - begin);
    if wanted_bytes != span_bytes {
        return Err(HeaderFault::SizeMismatch {
            tensor: name(),
            dtype,
            shape: shape(),
            wanted_bytes,
            span_bytes,
        });
    }
    Ok(())
}

/// Checks that the sorted tensors cover each data byte exactly once.
fn check_tiling(tensors: &[json::RawTensor], data_bytes: u64) -> Result<(), HeaderFault> {
    let (mut at, mut previous) = (0, "");
    for tensor in tensors {
        let [begin, end] = tensor.offsets;
        if begin < at {
            let (first, second) = (previous.to_owned(), tensor.name.clone());
            return Err(HeaderFault::Overlap { first, second, at: begin });
        }
        if begin > at {
            return Err(HeaderFault::Hole { hole: Span::new(at, begin) });
        }
        (at, previous) = (end, &tensor.name);
    }
    if at < data_bytes {
        return Err(HeaderFault::Hole { hole: Span::new(at, data_bytes) });
    }
    Ok(())
}
