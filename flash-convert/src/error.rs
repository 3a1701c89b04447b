use std::io;
use std::path::{Path, PathBuf};

use flash_kernels::KernelError;

use crate::gguf::{GgmlType, GgufError};

/// Why a model could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file could not be opened.
    #[error("{path}: cannot be opened: {error}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// The GGUF file's header is not in order.
    #[error("{path}: {fault}")]
    Gguf {
        /// The GGUF file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: GgufError,
    },
    /// Parts of a GGUF model that do not belong together.
    #[error("{path}: {problem}")]
    Split {
        /// The part.
        path: PathBuf,
        /// What is wrong with it.
        problem: SplitProblem,
    },
    /// A model of another architecture.
    #[error("{path}: architecture {found:?} is not supported (known: {known})")]
    Architecture {
        /// The GGUF file.
        path: PathBuf,
        /// What `general.architecture` says.
        found: String,
        /// What can be converted.
        known: &'static str,
    },
    /// A setting that the converted model could not express.
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
    /// A tensor that the architecture does not have.
    #[error("{path}: tensor {tensor:?} is not known for this architecture")]
    UnknownTensor {
        /// The GGUF file or shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the architecture needs.
    #[error("{path}: tensor {tensor:?} is missing")]
    MissingTensor {
        /// The GGUF file, or the shard of what does not do without it.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose shape disagrees with the metadata.
    #[error("{path}: tensor {tensor:?} has shape {found:?}, the metadata asks for {wanted:?} (rows last)")]
    TensorShape {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dimensions that follow from the metadata, the fastest-varying first.
        wanted: Vec<u64>,
        /// Its dimensions, the fastest-varying first.
        found: Vec<u64>,
    },
    /// A tensor of a type that cannot be converted.
    #[error("{path}: tensor {tensor:?} is stored as {found}; {known} can be converted")]
    TensorType {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: GgmlType,
        /// What can be converted.
        known: &'static str,
    },
    /// `rope_freqs.weight` holds factors that no `rope_scaling` of config.json describes.
    #[error("{path}: the factors in {tensor:?} follow no known RoPE scaling")]
    RopeFactors {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tokenizer table that contradicts itself or the model.
    #[error("{path}: {key}: {problem}")]
    Tokenizer {
        /// The GGUF file.
        path: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// What is wrong with it.
        problem: TokenizerProblem,
    },
    /// A model of another type.
    #[error("{path}: model_type {found:?} is not supported (known: {known})")]
    ModelType {
        /// config.json.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
        /// What can be quantised.
        known: &'static str,
    },
    /// A model that is quantised already, in a way that is not known for it.
    #[error("{path}: {field} says that the weights are quantised already ({method})")]
    Quantized {
        /// config.json.
        path: PathBuf,
        /// The field that says so.
        field: &'static str,
        /// How.
        method: String,
    },
    /// A file that is not JSON, or not an object.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it ends to be.
        #[source]
        error: serde_json::Error,
    },
    /// The safetensors files of a directory are not in order.
    #[error("{error}")]
    Checkpoint {
        /// What is wrong with them.
        #[source]
        error: flash_io::IoError,
    },
    /// A tensor whose values are no floats.
    #[error("{path}: tensor {tensor:?} is {found}; F32, F16 and BF16 can be quantised")]
    TensorDtype {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: flash_io::Dtype,
    },
    /// Experts that are not all there, or more than config.json says.
    #[error(
        "{path}: {parameter:?} is made of {found} experts, and {field} of config.json is {}",
        wanted.map_or("absent".to_owned(), |wanted| wanted.to_string())
    )]
    Experts {
        /// The directory.
        path: PathBuf,
        /// What they become.
        parameter: String,
        /// What counts them in config.json.
        field: &'static str,
        /// How many it says.
        wanted: Option<u64>,
        /// How many there are.
        found: u64,
    },
    /// An expert that is not as the first one.
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
    /// A tensor of an expert that is not there.
    #[error(
        "{path}: tensor {tensor:?} is missing{}",
        idx.map_or_else(String::new, |idx| format!(", or it has no expert {idx}"))
    )]
    NoMember {
        /// The directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The place in it that was asked for.
        idx: Option<u64>,
    },
    /// Two tensors that would have one name.
    #[error("{path}: two tensors of what is made of it would be called {tensor:?}")]
    Twice {
        /// The directory.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// Experts of one layer that cannot lie in rows of one tensor.
    #[error("{path}: tensor {tensor:?} has not the type and shape that other experts have in its place")]
    Unalike {
        /// The directory.
        path: PathBuf,
        /// A tensor of an expert that differs.
        tensor: String,
    },
    /// A tensor of a shape that config.json or its neighbours contradict.
    #[error("{path}: tensor {tensor:?} has shape {found:?}, the model asks for {wanted}")]
    CheckpointShape {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What its shape should be.
        wanted: String,
        /// Its shape.
        found: Vec<u64>,
    },
    /// A target that MLX's affine format does not have.
    #[error("{fault}")]
    Target {
        /// Why not.
        #[source]
        fault: KernelError,
    },
    /// A number that is not finite, or not any more in the type it is to be stored in.
    #[error("{path}: tensor {tensor:?} holds a value beyond {float} at index {value_idx}")]
    NotFinite {
        /// The GGUF file or shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which value, in the order they are written.
        value_idx: u64,
        /// The type that cannot hold it.
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
        /// How much was to be read.
        wanted_bytes: u64,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// The output directory is there and not empty.
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
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// There is no room for the model.
    #[error("{path}: the disk is full (the model's weights take {wanted_bytes} B)")]
    DiskFull {
        /// The file or directory.
        path: PathBuf,
        /// What the weights take in all.
        wanted_bytes: u64,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// The progress callback asked to stop.
    #[error("{path}: interrupted; nothing was written")]
    Interrupted {
        /// The output directory.
        path: PathBuf,
    },
}

/// What is wrong with a part of a GGUF model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitProblem {
    /// It is not there.
    #[error("no such file; {given} is a part of a model in {count} files, and this is another")]
    Missing {
        /// The part that was asked for.
        given: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// Its name is not that of a part, so the others cannot be found.
    #[error("is a part of a split model, whose name must end in {end:?}")]
    Name {
        /// How it should end.
        end: String,
    },
    /// It counts parts or tensors otherwise than the others.
    #[error(
        "{key} is {}, not {wanted}: the files are not parts of one model",
        found.map_or_else(|| "absent".to_owned(), |found| found.to_string())
    )]
    Number {
        /// The metadata key.
        key: &'static str,
        /// What it should be, by the name of the file or the other parts.
        wanted: usize,
        /// What it is.
        found: Option<usize>,
    },
}

/// What is wrong with a tokenizer's table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerProblem {
    /// Not a tokenizer that can be converted.
    #[error("{found:?} is not supported (known: {known})")]
    Unknown {
        /// What is found.
        found: String,
        /// What can be converted.
        known: &'static str,
    },
    /// Two tables of different length.
    #[error("holds {found} entries for {wanted} tokens")]
    Length {
        /// How many tokens there are.
        wanted: usize,
        /// How many entries the table holds.
        found: usize,
    },
    /// More tokens than the model has embeddings for.
    #[error("{found} tokens, but only {wanted} embeddings")]
    MoreThanEmbeddings {
        /// Rows of the embedding.
        wanted: u64,
        /// How many tokens there are.
        found: usize,
    },
    /// One text, two tokens.
    #[error("tokens {first} and {second} are both {text:?}")]
    Duplicate {
        /// The text.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// An id beyond the vocabulary.
    #[error("{id} is not the id of one of the {n_tokens} tokens")]
    NoSuchToken {
        /// The id.
        id: u64,
        /// How many tokens there are.
        n_tokens: usize,
    },
    /// A token type that GGUF does not define.
    #[error("token {id} has type {found}, which does not exist")]
    TokenType {
        /// The token.
        id: usize,
        /// Its type.
        found: i32,
    },
    /// A merge that is not two pieces.
    #[error("merge {idx}, {text:?}, is not two pieces")]
    Merge {
        /// Its place in the table.
        idx: usize,
        /// The merge.
        text: String,
    },
}

impl ConvertError {
    /// The error of a failed write: a full disk is named as such.
    pub(crate) fn write(path: &Path, wanted_bytes: u64, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, wanted_bytes, error }
            }
            _ => Self::Write { path, error },
        }
    }

    /// The error of a tensor whose type is none of `known`.
    pub(crate) fn tensor_type(path: &Path, tensor: &crate::gguf::TensorInfo, known: &'static str) -> Self {
        Self::TensorType { path: path.to_owned(), tensor: tensor.name.clone(), found: tensor.kind, known }
    }
}
