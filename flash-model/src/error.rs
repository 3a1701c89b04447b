//! The errors of this crate.

mod sample;

use std::path::PathBuf;

use flash_io::{Dtype, IoError};
use flash_kv::KvError;
use mlx_rs::error::Exception;

pub use sample::SampleError;

/// Why a model could not be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the model directory could not be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// A file of the model directory is not the JSON it should be.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        #[source]
        error: serde_json::Error,
    },
    /// A field of the configuration has a value that no model can have, or that is not supported.
    #[error("{path}: {field} is {given}; {expected}")]
    ConfigField {
        /// The configuration.
        path: PathBuf,
        /// The field, with the path to it.
        field: String,
        /// Its value.
        given: String,
        /// What it could be.
        expected: String,
    },
    /// A field of the configuration that the architecture does not implement, and that may change what layers compute.
    #[error(
        "{path}: {field} is {given}, and {model_type} does not implement it here; it may change the output"
    )]
    UnknownField {
        /// The configuration.
        path: PathBuf,
        /// The field, with the path to it.
        field: String,
        /// Its value.
        given: String,
        /// The architecture.
        model_type: String,
    },
    /// Tensors of the text model that no layer uses.
    #[error(
        "{path}: tensor {tensor:?} is not used by {model_type}{}{hint}",
        others(*n_others)
    )]
    UnusedTensor {
        /// The shard.
        path: PathBuf,
        /// The first of them.
        tensor: String,
        /// How many more there are.
        n_others: usize,
        /// The architecture.
        model_type: String,
        /// The field of the configuration that would use it.
        hint: String,
    },
    /// The CPU kernels were asked for, and cannot be had.
    #[error("native compute cannot be used: {reason}")]
    NativeCompute {
        /// Why.
        reason: String,
    },
    /// The architecture is not known.
    #[error("{path}: model_type {given:?} is not supported; known are {}", known.join(", "))]
    UnknownModelType {
        /// The configuration.
        path: PathBuf,
        /// What it says.
        given: String,
        /// What can be run.
        known: Vec<&'static str>,
    },
    /// What a packed model says of its experts is not so.
    #[error("what the rows of tensor {tensor:?} hold is not said rightly: {error}")]
    Rows {
        /// The tensor of all experts of a layer.
        tensor: String,
        /// Why its metadata is refused.
        #[source]
        error: Box<IoError>,
    },
    /// Experts that lie in rows cannot be packed again.
    #[error("{dir}: its experts are packed already")]
    Packed {
        /// The model directory.
        dir: PathBuf,
    },
    /// A number of experts was asked for of a model that has none.
    #[error("the model has no experts")]
    NoExperts,
    /// No token can take so many experts.
    #[error("a token takes at least 1 and at most {n_experts} of a layer's experts, not {given}")]
    TopK {
        /// How many were asked for.
        given: usize,
        /// Experts of the layer that has the fewest.
        n_experts: usize,
    },
    /// A router's score is NaN, or infinite where a softmax is taken of it: no expert of the token has a weight then.
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
    /// A loss is NaN: a logit is NaN or infinite.
    #[error(
        "the loss of token {token} at position {position} is not a number: the weights, or what was computed, are broken"
    )]
    LossNan {
        /// Where the token stands in the text.
        position: usize,
        /// The token that was to be predicted.
        token: u32,
    },
    /// The checkpoint lacks a tensor that the configuration asks for.
    #[error("{dir}: no tensor {tensor:?}, which config.json asks for")]
    MissingTensor {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor {tensor:?} has shape {shape:?}, config.json asks for {expected:?}")]
    TensorShape {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The shape that follows from the configuration.
        expected: Vec<u64>,
    },
    /// A tensor has a dtype that its place cannot have.
    #[error("{path}: tensor {tensor:?} is {dtype}, expected {expected}")]
    TensorDtype {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// What it could be.
        expected: &'static str,
    },
    /// The weights, or memory for them, could not be had.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Weights could not be read while the model ran.
    #[error("tensor {tensor:?}: {source}")]
    WeightRead {
        /// The tensor at which the read began.
        tensor: String,
        /// What went wrong.
        source: IoError,
    },
    /// The memory budget is too small for this model.
    #[error(
        "a budget of {} is below the floor of {} for a context of {context_tokens} tokens; {advice}",
        mib(*budget_bytes), mib(*floor_bytes)
    )]
    BelowFloor {
        /// What was given.
        budget_bytes: u64,
        /// The smallest budget that works.
        floor_bytes: u64,
        /// The context that the floor holds.
        context_tokens: usize,
        /// What would lower the floor.
        advice: &'static str,
    },
    /// The KV cache cannot hold what it should.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A number of a key or value is too great for the 16 bits in which a quantised cache keeps recent tokens.
    #[error(
        "layer {layer_idx}, token {position}: {number} is beyond ±65504, the greatest numbers of keys and values at 16 bits: \
         keep them as they are computed"
    )]
    KvRange {
        /// The layer.
        layer_idx: usize,
        /// Position of the token.
        position: usize,
        /// The number.
        number: f32,
    },
    /// A page of the KV cache is whole, but of other tokens.
    #[error("{path}: page {page_idx} of layer {layer_idx} is of other tokens than were passed")]
    StalePage {
        /// The file.
        path: PathBuf,
        /// The page's place in it.
        page_idx: usize,
        /// The layer.
        layer_idx: usize,
    },
    /// What keeps all tokens was asked of a cache that gives up old ones.
    #[error("{what} keeps all of its tokens, and this cache gives up old ones for new ones")]
    Rotates {
        /// What was asked for.
        what: &'static str,
    },
    /// What needs a way back was asked of a model whose layers keep a state, from which there is none.
    #[error("{what} goes on from a part of its tokens, and layers of this model keep a state of all of them")]
    HasState {
        /// What was asked for.
        what: &'static str,
    },
    /// A session is longer than the context.
    #[error("the session has {session_tokens} tokens, the context holds {context_tokens}")]
    SessionTooLong {
        /// Tokens of the session.
        session_tokens: usize,
        /// What the workload, or the budget, allows.
        context_tokens: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt is longer than the context.
    #[error("the prompt has {prompt_tokens} tokens, the context holds {context_tokens}")]
    PromptTooLong {
        /// Tokens of the prompt, and of what came before it.
        prompt_tokens: usize,
        /// What memory was planned for.
        context_tokens: usize,
    },
    /// A token is not in the vocabulary of the model.
    #[error("token {token} is outside of the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A layer kept hold of weights after it had run.
    #[error("{bundle} has no slot: a layer that ran before still holds its weights")]
    SlotHeld {
        /// The bundle that waits.
        bundle: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Text could not be encoded or decoded.
    #[error(transparent)]
    Text(#[from] flash_text::TextError),
    /// No token could be drawn.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// MLX reported an error.
    #[error("MLX: {0}")]
    Mlx(#[from] Exception),
}

/// Bytes for a person to read, and to type again.
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
    fn what_is_wrong_with_a_file_is_the_source_of_the_error() {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let file = ModelError::File { path: "a".into(), error: missing() };
        let bad = serde_json::from_str::<u8>("x").unwrap_err();
        let json = ModelError::Json { path: "a".into(), error: bad };
        assert!(file.source().unwrap().is::<std::io::Error>());
        assert!(json.source().unwrap().is::<serde_json::Error>());
    }
}
