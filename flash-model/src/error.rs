//! The errors of this crate.

mod sample;

use std::path::PathBuf;

use flash_io::{Dtype, IoError};
use flash_kv::KvError;
use mlx_rs::error::Exception;

pub use sample::SampleError;

/// An error of opening or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the model directory could not be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// A file of the model directory is not valid JSON, or has an unexpected structure.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error, with line and column.
        #[source]
        error: serde_json::Error,
    },
    /// A field of the configuration has an invalid or unsupported value.
    #[error("{path}: {field} is {given}; {expected}")]
    ConfigField {
        /// The configuration.
        path: PathBuf,
        /// Dotted path of the field.
        field: String,
        /// Its value.
        given: String,
        /// The accepted values.
        expected: String,
    },
    /// The configuration has a field that the architecture does not implement and that may change the output.
    #[error(
        "{path}: {field} is {given}, and {model_type} does not implement it here; it may change the output"
    )]
    UnknownField {
        /// The configuration.
        path: PathBuf,
        /// Dotted path of the field.
        field: String,
        /// Its value.
        given: String,
        /// The architecture.
        model_type: String,
    },
    /// The checkpoint has tensors of the text model that no layer uses.
    #[error(
        "{path}: tensor {tensor:?} is not used by {model_type}{}{hint}",
        others(*n_others)
    )]
    UnusedTensor {
        /// The shard.
        path: PathBuf,
        /// The first unused tensor.
        tensor: String,
        /// Number of further unused tensors.
        n_others: usize,
        /// The architecture.
        model_type: String,
        /// A hint at the field of the configuration that would use it.
        hint: String,
    },
    /// The CPU kernels were requested and are not available.
    #[error("native compute cannot be used: {reason}")]
    NativeCompute {
        /// The reason.
        reason: String,
    },
    /// The architecture is not supported.
    #[error("{path}: model_type {given:?} is not supported; known are {}", known.join(", "))]
    UnknownModelType {
        /// The configuration.
        path: PathBuf,
        /// The `model_type` of the configuration.
        given: String,
        /// The supported architectures.
        known: Vec<&'static str>,
    },
    /// The metadata of a packed expert tensor is invalid.
    #[error("the metadata of packed tensor {tensor:?} is invalid: {error}")]
    Rows {
        /// The tensor that packs all experts of a layer.
        tensor: String,
        /// The error in its metadata.
        #[source]
        error: Box<IoError>,
    },
    /// The experts of a model to be packed are packed already.
    #[error("{dir}: its experts are packed already")]
    Packed {
        /// The model directory.
        dir: PathBuf,
    },
    /// An operation on experts was requested of a model without experts.
    #[error("the model has no experts")]
    NoExperts,
    /// The requested number of experts per token is out of range.
    #[error("a token takes at least 1 and at most {n_experts} of a layer's experts, not {given}")]
    TopK {
        /// The requested number.
        given: usize,
        /// Experts of the layer with the fewest experts.
        n_experts: usize,
    },
    /// A tentative segment has more tokens than the context or the memory plan has room for.
    #[error("a draft of {tokens} tokens was given, and there is room for {room}")]
    DraftTooLong {
        /// Tokens of the segment.
        tokens: usize,
        /// Tokens that it could have.
        room: usize,
    },
    /// A router score is NaN, or is infinite and input of a softmax, so that the token's experts have no weights.
    #[error(
        "layer {layer_idx}: the router's score of expert {expert_idx} is {score}: the weights, or the hidden states before it, \
         are broken"
    )]
    RouterScore {
        /// The layer.
        layer_idx: usize,
        /// The expert.
        expert_idx: usize,
        /// Its score.
        score: f32,
    },
    /// The loss of a token is NaN because a logit is NaN or infinite.
    #[error(
        "the loss of token {token} at position {position} is not a number: the weights, or what was computed, are broken"
    )]
    LossNan {
        /// Position of the token in the text.
        position: usize,
        /// The target token.
        token: u32,
    },
    /// The checkpoint lacks a tensor that the configuration requires.
    #[error("{dir}: no tensor {tensor:?}, which config.json asks for")]
    MissingTensor {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The shape of a tensor does not match the configuration.
    #[error("{path}: tensor {tensor:?} has shape {shape:?}, config.json asks for {expected:?}")]
    TensorShape {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The shape that the configuration requires.
        expected: Vec<u64>,
    },
    /// A dimension of a tensor is longer than MLX's, which have 31 bits.
    #[error("{path}: tensor {tensor:?} has a dimension of {extent}, and MLX's have 31 bits")]
    TensorExtent {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dimension.
        extent: u64,
    },
    /// MLX cannot use a tensor where it lies in memory.
    #[error("tensor {tensor:?}: MLX: {source}")]
    TensorView {
        /// The tensor.
        tensor: String,
        /// MLX's error.
        source: Exception,
    },
    /// The dtype of a tensor is not accepted for its role.
    #[error("{path}: tensor {tensor:?} is {dtype}, expected {expected}")]
    TensorDtype {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// The accepted dtypes.
        expected: &'static str,
    },
    /// Metal cannot load a tensor from where it lies in the shard, and the tensors before it leave no room to move it.
    #[error(
        "tensor {tensor:?} lies at byte {offset} of its slot, and cannot be moved to a multiple of 16 as Metal requires: a \
         tensor before it has an odd length"
    )]
    TensorAlignment {
        /// The tensor.
        tensor: String,
        /// Its offset in the slot.
        offset: usize,
    },
    /// Weights could not be opened, or memory for them could not be allocated.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Weights could not be read while the model ran.
    #[error("tensor {tensor:?}: {source}")]
    WeightRead {
        /// The first tensor of the failed read.
        tensor: String,
        /// The error of the read.
        source: IoError,
    },
    /// The memory budget is too small for this model.
    #[error(
        "a budget of {} is below the floor of {} for a context of {context_tokens} tokens; {advice}",
        mib(*budget_bytes), mib(*floor_bytes)
    )]
    BelowFloor {
        /// The given budget.
        budget_bytes: u64,
        /// A budget close to the smallest one that works, which works in other runs, too.
        floor_bytes: u64,
        /// The context length that the floor is computed for.
        context_tokens: usize,
        /// Advice on lowering the floor.
        advice: &'static str,
    },
    /// The KV cache could not be read or written.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// An element of a key or value overflows f16, the format of recent tokens in a quantized cache.
    #[error(
        "layer {layer_idx}, token {position}: {number} is beyond ±65504, the greatest numbers of keys and values at 16 bits: \
         keep them as they are computed"
    )]
    KvRange {
        /// The layer.
        layer_idx: usize,
        /// Position of the token.
        position: usize,
        /// The element.
        number: f32,
    },
    /// A page of the KV cache is intact, but holds other tokens than the context.
    #[error("{path}: page {page_idx} of layer {layer_idx} is of other tokens than were passed")]
    StalePage {
        /// The file.
        path: PathBuf,
        /// Index of the page in the file.
        page_idx: usize,
        /// The layer.
        layer_idx: usize,
    },
    /// An operation requires all tokens of the context, but the cache discards old ones.
    #[error("{what} requires all of its tokens, but this cache discards old ones")]
    Rotates {
        /// The requested operation.
        what: &'static str,
    },
    /// An operation rewinds the context, but layers of the model have a recurrent state, which cannot be rewound.
    #[error(
        "{what} resumes from a part of its tokens, but layers of this model keep a recurrent state of all of them"
    )]
    HasState {
        /// The requested operation.
        what: &'static str,
    },
    /// The session does not fit into the context.
    #[error("the session has {session_tokens} tokens, the context holds {context_tokens}")]
    SessionTooLong {
        /// Tokens of the session.
        session_tokens: usize,
        /// Context length that the workload or the budget allows.
        context_tokens: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt does not fit into the context.
    #[error("the prompt has {prompt_tokens} tokens, the context holds {context_tokens}")]
    PromptTooLong {
        /// Tokens of the prompt and of the context before it.
        prompt_tokens: usize,
        /// Context length that memory was planned for.
        context_tokens: usize,
    },
    /// A token id is outside of the model's vocabulary.
    #[error("token {token} is outside of the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token id.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// No slot is free because a layer that has run still holds its weights.
    #[error("{bundle} has no slot: a layer that ran before still holds its weights")]
    SlotHeld {
        /// The bundle that waits for a slot.
        bundle: String,
    },
    /// The pass was interrupted by the caller.
    #[error("interrupted")]
    Interrupted,
    /// Text could not be encoded or decoded.
    #[error(transparent)]
    Text(#[from] flash_text::TextError),
    /// No token could be sampled.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// MLX reported an error.
    #[error("MLX: {0}")]
    Mlx(#[from] Exception),
}

/// Formats bytes as MiB, rounded up.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn others(n_others: usize) -> String {
    match n_others {
        0 => String::new(),
        1 => " (nor is one more)".to_owned(),
        n => format!(" (nor are {n} more)"),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn cause_of_a_file_error_is_its_source() {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let file = ModelError::File { path: "a".into(), error: missing() };
        let bad = serde_json::from_str::<u8>("x").unwrap_err();
        let json = ModelError::Json { path: "a".into(), error: bad };
        assert!(file.source().unwrap().is::<std::io::Error>());
        assert!(json.source().unwrap().is::<serde_json::Error>());
    }
}
