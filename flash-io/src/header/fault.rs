//! What can be wrong with a safetensors header.

use crate::header::Dtype;
use crate::span::Span;

/// Why a safetensors header was refused.
///
/// A second enum beside [`IoError`](crate::IoError) because the parser is pure: it knows the bytes, and
/// whoever called it knows the file. Offsets of tensor data are counted from the end of the header, as in
/// the header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// The file has not even the eight bytes of the header length.
    #[error("{file_bytes} B are no safetensors file, its header length alone has 8 B")]
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
        /// How many bytes of it are.
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
        /// What was there instead.
        #[source]
        error: serde_json::Error,
    },
    /// A field has another type than the format asks for.
    #[error("tensor {tensor:?}, field {field:?}: {error}")]
    BadField {
        /// Name of the tensor, or `__metadata__`.
        tensor: String,
        /// Name of the field.
        field: String,
        /// What was there instead.
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
    #[error("tensor {tensor:?} has two fields {field:?}")]
    DuplicateField {
        /// Name of the tensor, or `__metadata__`.
        tensor: String,
        /// Name of the field.
        field: String,
    },
    /// An entry appears twice.
    #[error("two entries {tensor:?}")]
    DuplicateTensor {
        /// Name of the tensor, or `__metadata__`.
        tensor: String,
    },
    /// The format has no such element type.
    #[error("tensor {tensor:?} has the unknown dtype {dtype:?}")]
    UnknownDtype {
        /// Name of the tensor.
        tensor: String,
        /// What was given as its element type.
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
    /// A tensor of a sub-byte type does not end at a byte.
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
        /// Where it begins.
        begin: u64,
        /// Where it ends.
        end: u64,
    },
    /// A tensor ends after the file: the shard is truncated, or the header is wrong.
    #[error("tensor {tensor:?} ends at {end}, but the file has {data_bytes} B of data (is it truncated?)")]
    OutOfRange {
        /// Name of the tensor.
        tensor: String,
        /// Where it ends.
        end: u64,
        /// How many bytes follow the header.
        data_bytes: u64,
    },
    /// The bytes of a tensor are not as many as its type and shape need.
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
        /// What type and shape need.
        wanted_bytes: u64,
        /// What the offsets span.
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
    /// Bytes between, before or after the tensors belong to none. The format forbids them.
    #[error("bytes {hole} of the data belong to no tensor")]
    Hole {
        /// Which bytes.
        hole: Span,
    },
}
