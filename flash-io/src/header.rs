//! Headers of safetensors files: eight bytes of length, then JSON that names every tensor.
//!
//! The parser is pure and made for hostile input: it allocates in proportion to the header's bytes, never
//! to what the header claims, and does not recurse into it.

mod dtype;
mod fault;
mod json;

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::IoError;
use crate::lfs::{LFS_POINTER_BYTES_MAX, LfsPointer};
use crate::span::Span;
use crate::storage::{ReadAt, read_full};

pub use dtype::Dtype;
pub use fault::HeaderFault;

/// The longest header that is accepted, in bytes; the limit of the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the header length in front of the header: one little-endian `u64`.
const LENGTH_BYTES: u64 = 8;

/// One tensor as its header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in its file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extent of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Where its bytes lie, counted from the start of the file.
    pub span: Span,
}

/// The validated header of one safetensors file.
///
/// Every tensor's span lies in the file, has the length that type and shape need, and touches no other's
/// bytes; together they fill the file from [`data_start`](Self::data_start) to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Free text of whoever wrote the file.
    pub metadata: BTreeMap<String, String>,
    /// Offset of the first byte after the header.
    pub data_start: u64,
}

impl Header {
    /// Reads and parses the header of a file, and nothing else of it.
    ///
    /// `path` is only for errors.
    ///
    /// # Errors
    /// [`IoError::Open`] if the file cannot be read, [`IoError::LfsPointer`] if it is one, [`IoError::Header`] if its
    /// header is refused.
    pub fn read(path: &Path, storage: &dyn ReadAt) -> Result<Self, IoError> {
        let unreadable = |error| IoError::Open { path: path.to_owned(), error };
        let refused = |fault| IoError::Header { path: path.to_owned(), fault };

        let file_bytes = storage.len_bytes().map_err(unreadable)?;
        let mut prefix = [0; LENGTH_BYTES as usize];
        if read_full(storage, 0, &mut prefix).map_err(unreadable)? < prefix.len() {
            return Err(refused(HeaderFault::FileTooShort { file_bytes }));
        }
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > MAX_HEADER_BYTES {
            // The text of a pointer, read as a length, is one of these.
            let mut start = [0; LFS_POINTER_BYTES_MAX];
            let start_bytes = read_full(storage, 0, &mut start).map_err(unreadable)?;
            return Err(match LfsPointer::detect(&start[..start_bytes]) {
                Some(pointer) => IoError::LfsPointer { path: path.to_owned(), pointer },
                None => refused(HeaderFault::TooLong { header_bytes, max_bytes: MAX_HEADER_BYTES }),
            });
        }
        let past_end = HeaderFault::PastEndOfFile { header_bytes, file_bytes };
        if LENGTH_BYTES + header_bytes > file_bytes {
            return Err(refused(past_end));
        }
        let mut json = vec![0; header_bytes as usize];
        if read_full(storage, LENGTH_BYTES, &mut json).map_err(unreadable)? < json.len() {
            return Err(refused(past_end));
        }
        parse(&json, file_bytes).map_err(refused)
    }

    /// Parses a header.
    ///
    /// `header_json` is what lies between the length and the data, `file_bytes` the length of the whole
    /// file; `path` is only for errors.
    ///
    /// # Errors
    /// [`IoError::Header`] with the first reason found to refuse it.
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
    // Empty tensors come before the tensor that begins where they lie.
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

/// Whether offsets, shape and element type of one tensor agree with each other and with the file.
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

/// Whether the sorted tensors fill the data: no byte twice, none left over.
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
