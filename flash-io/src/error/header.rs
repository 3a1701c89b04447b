//! Errors of safetensors headers.

use crate::dtype::Dtype;
use crate::span::Span;

/// Error of parsing or validating a safetensors header.
///
/// Separate from [`IoError`](crate::IoError) because the parser is pure: it sees bytes, and its caller adds the path.
/// Offsets of tensor data are relative to the end of the header, as in the header itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// The file is shorter than the eight bytes of the header length.
    #[error("a file of {file_bytes} B is shorter than the 8 B of the header length")]
    FileTooShort {
        /// Length of the file.
        file_bytes: u64,
    },
    /// The header is longer than the format allows.
    #[error("header of {header_bytes} B, the format allows {max_bytes} B")]
    TooLong {
        /// The length that the file states.
        header_bytes: u64,
        /// [`MAX_HEADER_BYTES`](crate::MAX_HEADER_BYTES).
        max_bytes: u64,
    },
    /// The header is longer than the file.
    #[error("header of {header_bytes} B in a file of {file_bytes} B")]
    PastEndOfFile {
        /// The length that the file states.
        header_bytes: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// The header does not begin with `{`.
    #[error("the header does not begin with '{{'")]
    NotAnObject,
    /// The header is not UTF-8.
    #[error("the header is not UTF-8 from byte {valid_bytes} on")]
    NotUtf8 {
        /// Length of the valid prefix.
        valid_bytes: usize,
    },
    /// The header is not JSON.
    #[error("the header is not JSON: {error}")]
    NotJson {
        /// Where and why parsing stopped.
        #[source]
        error: serde_json::Error,
    },
    /// An entry is not an object of tensor fields.
    #[error("entry {tensor:?}: {error}")]
    NotATensor {
        /// Name of the entry.
        tensor: String,
        /// The parser's error.
        #[source]
        error: serde_json::Error,
    },
    /// A field has another type than the format requires.
    #[error("tensor {tensor:?}, field {field:?}: {error}")]
    BadField {
        /// Name of the tensor, or `__metadata__`.
        tensor: String,
        /// Name of the field.
        field: String,
        /// The parser's error.
        #[source]
        error: serde_json::Error,
    },
    /// A field is missing.
    #[error("tensor {tensor:?} has no field {field:?}")]
    MissingField {
        /// Name of the tensor.
        tensor: String,
        /// Name of the field.
        field: &'static str,
    },
    /// A field appears twice.
    #[error("tensor {tensor:?} has a duplicate field {field:?}")]
    DuplicateField {
        /// Name of the tensor, or `__metadata__`.
        tensor: String,
        /// Name of the field.
        field: String,
    },
    /// An entry appears twice.
    #[error("duplicate entry {tensor:?}")]
    DuplicateTensor {
        /// Name of the tensor, or `__metadata__`.
        tensor: String,
    },
    /// The format has no such element type.
    #[error("tensor {tensor:?} has unknown dtype {dtype:?}")]
    UnknownDtype {
        /// Name of the tensor.
        tensor: String,
        /// The unknown name.
        dtype: String,
    },
    /// The size of a tensor does not fit 64 bits.
    #[error("tensor {tensor:?}: {dtype} of shape {shape:?} overflows")]
    ShapeOverflow {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The size of a tensor of a sub-byte type is not a whole number of bytes.
    #[error("tensor {tensor:?}: {dtype} of shape {shape:?} is not a whole number of bytes")]
    PartialByte {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A tensor begins after its end.
    #[error("tensor {tensor:?} begins at {begin} and ends at {end}")]
    BackwardOffsets {
        /// Name of the tensor.
        tensor: String,
        /// Begin offset.
        begin: u64,
        /// End offset.
        end: u64,
    },
    /// A tensor ends past the end of the file: the shard is truncated, or the header is wrong.
    #[error("tensor {tensor:?} ends at {end}, but the file has {data_bytes} B of data (is it truncated?)")]
    OutOfRange {
        /// Name of the tensor.
        tensor: String,
        /// End offset.
        end: u64,
        /// Bytes after the header.
        data_bytes: u64,
    },
    /// The offsets of a tensor span a different size than its type and shape need.
    #[error(
        "tensor {tensor:?}: {dtype} of shape {shape:?} needs {wanted_bytes} B, its offsets span {span_bytes} B"
    )]
    SizeMismatch {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes that type and shape need.
        wanted_bytes: u64,
        /// Bytes that the offsets span.
        span_bytes: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first:?} and {second:?} overlap at {at}")]
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
        /// The first shared byte.
        at: u64,
    },
    /// Some data bytes belong to no tensor, which the format forbids.
    #[error("bytes {hole} of the data belong to no tensor")]
    Hole {
        /// The unused range.
        hole: Span,
    },
}
