use std::fmt;
use std::io;

/// Where in a header a fault lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The fixed fields at the start.
    Preamble,
    /// The entry of this number in the metadata, before its key is known.
    Entry(u64),
    /// The metadata entry of this key.
    Key(String),
    /// The entry of this number in the tensor table, before its name is known.
    TensorEntry(u64),
    /// The tensor of this name.
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

/// Why bytes are not a GGUF header that can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A version that this parser does not know.
    #[error("GGUF version {version} is not supported (versions 2 and 3 are)")]
    Version {
        /// The version stated.
        version: u32,
    },
    /// A file written for a big-endian machine.
    #[error("a big-endian GGUF file (version {version}) is not supported")]
    BigEndian {
        /// The version stated, in the right byte order.
        version: u32,
    },
    /// The header claims more than there is.
    #[error("{place}, {field}: wants {wanted_bytes} B at offset {offset}, only {left_bytes} B are left")]
    Truncated {
        /// Which part of the header.
        place: Place,
        /// Which field of it.
        field: &'static str,
        /// Where the field starts in the file.
        offset: u64,
        /// How much the field takes at least.
        wanted_bytes: u64,
        /// How much the file (or the limit of a header) leaves.
        left_bytes: u64,
    },
    /// The system could not read.
    #[error("{place}, {field}: read at offset {offset} failed: {error}")]
    Read {
        /// Which part of the header.
        place: Place,
        /// Which field of it.
        field: &'static str,
        /// Where the field starts in the file.
        offset: u64,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// A string is not UTF-8.
    #[error("{place}, {field}: not UTF-8")]
    NotUtf8 {
        /// Which part of the header.
        place: Place,
        /// Which field of it.
        field: &'static str,
    },
    /// A key occurs twice.
    #[error("metadata key {key:?} occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value of a type that GGUF does not define.
    #[error("metadata key {key:?}: value type {type_id} does not exist")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        type_id: u32,
    },
    /// Arrays in arrays in arrays.
    #[error("metadata key {key:?}: arrays nested deeper than {depth_max}")]
    ArrayDepth {
        /// The key.
        key: String,
        /// How deep they may be.
        depth_max: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key {key:?}: {found} is no boolean")]
    NotBool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// `general.alignment` is no power of two.
    #[error("metadata key \"general.alignment\": {alignment} is no power of two")]
    Alignment {
        /// The number found.
        alignment: u64,
    },
    /// A key that must be there is not.
    #[error("metadata key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key's value has another type than its meaning asks for.
    #[error("metadata key {key:?}: wants {wanted}, found {found}")]
    KeyType {
        /// The key.
        key: String,
        /// What was asked for.
        wanted: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// A tensor name occurs twice.
    #[error("tensor {tensor:?} occurs twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has no dimension or too many.
    #[error("tensor {tensor:?}: {n_dims} dimensions (1 to 4 are allowed)")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// How many it has.
        n_dims: u32,
    },
    /// A tensor has a dimension of zero.
    #[error("tensor {tensor:?}: dimension {dim_idx} is 0")]
    EmptyDimension {
        /// The tensor.
        tensor: String,
        /// Which dimension, the fastest-varying being 0.
        dim_idx: usize,
    },
    /// A tensor's size does not fit 64 bits.
    #[error("tensor {tensor:?}: its size overflows ({dims:?} of {kind})")]
    SizeOverflow {
        /// The tensor.
        tensor: String,
        /// Its dimensions, the fastest-varying first.
        dims: Vec<u64>,
        /// Its type.
        kind: super::GgmlType,
    },
    /// A type number that ggml does not define.
    #[error("tensor {tensor:?}: ggml type {type_id} does not exist")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's number.
        type_id: u32,
    },
    /// A row that is cut off within a block.
    #[error("tensor {tensor:?}: rows of {row_len} values are no whole blocks of {kind}")]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Values in a row.
        row_len: u64,
        /// The type.
        kind: super::GgmlType,
    },
    /// A tensor that does not start where the alignment says.
    #[error("tensor {tensor:?}: offset {offset} is not aligned to {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor that reaches beyond the end of the file.
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
    /// Two tensors that share bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
    },
}
