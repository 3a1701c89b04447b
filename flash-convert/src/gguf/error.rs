use std::fmt;
use std::io;

/// Location of an error in a GGUF header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The fixed fields at the start.
    Preamble,
    /// Metadata entry by index, while its key is unknown.
    Entry(u64),
    /// Metadata entry by key.
    Key(String),
    /// Entry of the tensor table by index, while its name is unknown.
    TensorEntry(u64),
    /// Entry of the tensor table by name.
    Tensor(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preamble => f.write_str("header"),
            Self::Entry(idx) => write!(f, "metadata entry {idx}"),
            Self::Key(key) => write!(f, "metadata key {key:?}"),
            Self::TensorEntry(idx) => write!(f, "tensor entry {idx}"),
            Self::Tensor(name) => write!(f, "tensor {name:?}"),
        }
    }
}

/// Error of parsing a GGUF header or of reading its values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The format version is not supported.
    #[error("GGUF version {version} is not supported (versions 2 and 3 are)")]
    Version {
        /// The version stated.
        version: u32,
    },
    /// The file is big-endian.
    #[error("a big-endian GGUF file (version {version}) is not supported")]
    BigEndian {
        /// The version stated, with its bytes swapped.
        version: u32,
    },
    /// A field exceeds the file or the size limit of headers.
    #[error("{place}, {field}: needs {wanted_bytes} B at offset {offset}, only {left_bytes} B are left")]
    Truncated {
        /// Location in the header.
        place: Place,
        /// Name of the field.
        field: &'static str,
        /// Offset of the field in the file.
        offset: u64,
        /// Minimum size of the field.
        wanted_bytes: u64,
        /// Bytes left in the file or up to the header limit.
        left_bytes: u64,
    },
    /// Reading the file failed.
    #[error("{place}, {field}: read at offset {offset} failed: {error}")]
    Read {
        /// Location in the header.
        place: Place,
        /// Name of the field.
        field: &'static str,
        /// Offset of the field in the file.
        offset: u64,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
    /// A string is not UTF-8.
    #[error("{place}, {field}: not UTF-8")]
    NotUtf8 {
        /// Location in the header.
        place: Place,
        /// Name of the field.
        field: &'static str,
    },
    /// A key occurs twice.
    #[error("metadata key {key:?} occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// GGUF does not define the type of a value.
    #[error("metadata key {key:?}: value type {type_id} is not defined")]
    ValueType {
        /// The key.
        key: String,
        /// The type id.
        type_id: u32,
    },
    /// Arrays are nested too deeply.
    #[error("metadata key {key:?}: arrays nested deeper than {depth_max}")]
    ArrayDepth {
        /// The key.
        key: String,
        /// Maximum depth.
        depth_max: u32,
    },
    /// A boolean is neither 0 nor 1.
    #[error("metadata key {key:?}: {found} is not a boolean")]
    NotBool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// `general.alignment` is not a power of two.
    #[error("metadata key \"general.alignment\": {alignment} is not a power of two")]
    Alignment {
        /// The value found.
        alignment: u64,
    },
    /// A required key is missing.
    #[error("metadata key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// The value of a key has the wrong type.
    #[error("metadata key {key:?}: expected {wanted}, found {found}")]
    KeyType {
        /// The key.
        key: String,
        /// The expected type.
        wanted: &'static str,
        /// The type found.
        found: &'static str,
    },
    /// A tensor name occurs twice.
    #[error("tensor {tensor:?} occurs twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has no dimensions or too many.
    #[error("tensor {tensor:?}: {n_dims} dimensions (1 to 4 are allowed)")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Number of dimensions.
        n_dims: u32,
    },
    /// A tensor has a dimension of zero.
    #[error("tensor {tensor:?}: dimension {dim_idx} is 0")]
    EmptyDimension {
        /// The tensor.
        tensor: String,
        /// Index of the dimension, fastest-varying first.
        dim_idx: usize,
    },
    /// The size of a tensor overflows 64 bits.
    #[error("tensor {tensor:?}: its size overflows ({dims:?} of {kind})")]
    SizeOverflow {
        /// The tensor.
        tensor: String,
        /// Its dimensions, fastest-varying first.
        dims: Vec<u64>,
        /// Its type.
        kind: super::GgmlType,
    },
    /// ggml does not define the type of a tensor.
    #[error("tensor {tensor:?}: ggml type {type_id} is not defined")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type id.
        type_id: u32,
    },
    /// The rows of a tensor are not a whole number of blocks.
    #[error("tensor {tensor:?}: rows of {row_len} values are not a whole number of {kind} blocks")]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Values in a row.
        row_len: u64,
        /// The type.
        kind: super::GgmlType,
    },
    /// The offset of a tensor is not aligned.
    #[error("tensor {tensor:?}: offset {offset} is not aligned to {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor exceeds the end of the file.
    #[error("tensor {tensor:?}: {bytes} B at offset {offset} exceed the {data_bytes} B of data")]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// Offset in the data section.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// Size of the data section.
        data_bytes: u64,
    },
    /// Two tensors overlap.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The other tensor.
        second: String,
    },
}
