mod problems;

use std::io;
use std::path::{Path, PathBuf};

use flash_kernels::KernelError;

use crate::gguf::{GgmlType, GgufError, TensorInfo};

pub use problems::{SplitProblem, TokenizerProblem};

/// Error of a conversion, a quantization or a packing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file could not be opened.
    #[error("{path}: cannot be opened: {error}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
    /// The header of a GGUF file is invalid.
    #[error("{path}: {fault}")]
    Gguf {
        /// The GGUF file.
        path: PathBuf,
        /// The header's error.
        #[source]
        fault: GgufError,
    },
    /// A part of a split GGUF model is missing or inconsistent with the others.
    #[error("{path}: {problem}")]
    Split {
        /// The part.
        path: PathBuf,
        /// The problem found.
        problem: SplitProblem,
    },
    /// The architecture of a GGUF model is not supported.
    #[error("{path}: architecture {found:?} is not supported (known: {known})")]
    Architecture {
        /// The GGUF file.
        path: PathBuf,
        /// The value of `general.architecture`.
        found: String,
        /// The supported architectures.
        known: &'static str,
    },
    /// A GGUF setting has no equivalent in config.json.
    #[error("{path}: {key} = {found} is not supported: {reason}")]
    Unsupported {
        /// The GGUF file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// Its value.
        found: String,
        /// Why it cannot be converted.
        reason: &'static str,
    },
    /// A tensor is not part of the architecture.
    #[error("{path}: tensor {tensor:?} is not known for this architecture")]
    UnknownTensor {
        /// The GGUF file or shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the architecture requires is missing.
    #[error("{path}: tensor {tensor:?} is missing")]
    MissingTensor {
        /// The GGUF file, or the shard of the tensor that requires it.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The shape of a tensor contradicts the metadata.
    #[error("{path}: tensor {tensor:?} has shape {found:?}, but the metadata implies {wanted:?} (rows last)")]
    TensorShape {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dimensions implied by the metadata, fastest-varying first.
        wanted: Vec<u64>,
        /// The tensor's dimensions, fastest-varying first.
        found: Vec<u64>,
    },
    /// The type of a tensor cannot be converted.
    #[error("{path}: tensor {tensor:?} is stored as {found}; {known} can be converted")]
    TensorType {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: GgmlType,
        /// The supported types.
        known: &'static str,
    },
    /// No `rope_scaling` of config.json describes the factors in `rope_freqs.weight`.
    #[error("{path}: the factors in {tensor:?} follow no known RoPE scaling")]
    RopeFactors {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tokenizer table contradicts itself or the model.
    #[error("{path}: {key}: {problem}")]
    Tokenizer {
        /// The GGUF file.
        path: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// The problem found.
        problem: TokenizerProblem,
    },
    /// The `model_type` of a checkpoint is not supported.
    #[error("{path}: model_type {found:?} is not supported (known: {known})")]
    ModelType {
        /// config.json.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
        /// The supported model types.
        known: &'static str,
    },
    /// A checkpoint is already quantized in a format that is not supported for its model type.
    #[error("{path}: {field} says that the weights are quantised already ({method})")]
    Quantized {
        /// config.json.
        path: PathBuf,
        /// The field of config.json that says so.
        field: &'static str,
        /// The quantization method.
        method: String,
    },
    /// A file is not a JSON object.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        error: serde_json::Error,
    },
    /// The safetensors files of a directory are invalid.
    #[error("{error}")]
    Checkpoint {
        /// The error of the catalog.
        #[source]
        error: flash_io::IoError,
    },
    /// The dtype of a tensor cannot be quantized.
    #[error("{path}: tensor {tensor:?} is {found}; F32, F16 and BF16 can be quantised")]
    TensorDtype {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: flash_io::Dtype,
    },
    /// The number of experts contradicts config.json.
    #[error(
        "{path}: {parameter:?} has {found} experts, but {field} of config.json is {}",
        wanted.map_or("absent".to_owned(), |wanted| wanted.to_string())
    )]
    Experts {
        /// The directory.
        path: PathBuf,
        /// The parameter that stacks them.
        parameter: String,
        /// The field of config.json with their number.
        field: &'static str,
        /// The number in config.json.
        wanted: Option<u64>,
        /// The number of experts found.
        found: u64,
    },
    /// The shape or type of an expert differs from that of the first expert.
    #[error(
        "{path}: tensor {tensor:?} has shape {found:?} or a type other than the first expert's, {wanted:?}"
    )]
    ExpertShape {
        /// The directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape of the first expert.
        wanted: Vec<u64>,
        /// Its shape.
        found: Vec<u64>,
    },
    /// A tensor of an expert is missing.
    #[error(
        "{path}: tensor {tensor:?} is missing{}",
        idx.map_or_else(String::new, |idx| format!(", or it has no expert {idx}"))
    )]
    MissingExpertTensor {
        /// The directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The expert index, if the tensor stacks experts.
        idx: Option<u64>,
    },
    /// Two output tensors have the same name.
    #[error("{path}: two tensors of the output would be named {tensor:?}")]
    DuplicateTensor {
        /// The directory.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// Experts of a layer cannot be packed as rows of one tensor.
    #[error(
        "{path}: tensor {tensor:?} differs in type or shape from the same tensor of the layer's other experts"
    )]
    ExpertMismatch {
        /// The directory.
        path: PathBuf,
        /// A tensor of an expert that differs.
        tensor: String,
    },
    /// The shape of a tensor contradicts config.json or other tensors.
    #[error("{path}: tensor {tensor:?} has shape {found:?}, expected {wanted}")]
    CheckpointShape {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The expected shape.
        wanted: String,
        /// Its shape.
        found: Vec<u64>,
    },
    /// MLX's affine format does not support the bit width or group size.
    #[error("{fault}")]
    Target {
        /// The reason.
        #[source]
        fault: KernelError,
    },
    /// A value is not finite, or overflows the type it is converted to.
    #[error("{path}: tensor {tensor:?} holds a value at index {value_idx} that {float} cannot represent")]
    NotFinite {
        /// The GGUF file or shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the value in the order of writing.
        value_idx: u64,
        /// The type that cannot represent it.
        float: &'static str,
    },
    /// Tensor data could not be read.
    #[error("{path}: tensor {tensor:?}: read of {wanted_bytes} B at offset {offset} failed: {error}")]
    Read {
        /// The GGUF file or shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Offset in the file.
        offset: u64,
        /// Number of bytes requested.
        wanted_bytes: u64,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
    /// The output path exists and is not an empty directory.
    #[error("{path}: exists already; nothing was written")]
    OutputExists {
        /// The output directory.
        path: PathBuf,
    },
    /// A file of the model could not be written.
    #[error("{path}: cannot be written: {error}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
    /// The disk is full.
    #[error("{path}: the disk is full (the model's weights take {wanted_bytes} B)")]
    DiskFull {
        /// The file or directory.
        path: PathBuf,
        /// Size of all weights.
        wanted_bytes: u64,
        /// The operating system's error.
        #[source]
        error: io::Error,
    },
    /// The progress callback stopped the conversion.
    #[error("{path}: interrupted; nothing was written")]
    Interrupted {
        /// The output directory.
        path: PathBuf,
    },
}

impl ConvertError {
    /// Returns the error of a failed write: [`DiskFull`](Self::DiskFull) if that was the cause.
    pub(crate) fn write(path: &Path, wanted_bytes: u64, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, wanted_bytes, error }
            }
            _ => Self::Write { path, error },
        }
    }

    /// Returns the error of a tensor whose type is not among `known`.
    pub(crate) fn tensor_type(path: &Path, tensor: &TensorInfo, known: &'static str) -> Self {
        Self::TensorType { path: path.to_owned(), tensor: tensor.name.clone(), found: tensor.kind, known }
    }
}
