//! The request that every dialect is translated to.

mod conversation;
mod format;
mod sampling;
mod tools;

use std::sync::Arc;
use std::time::Duration;

pub use conversation::{Conversation, Effort, Message, Part, Reasoning, Role, ToolCall};
pub use format::ResponseFormat;
pub use sampling::Sampling;
pub use tools::{Tool, ToolChoice};

/// A request to generate one answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GenerateRequest {
    /// Id of the model.
    pub model: String,
    /// The prompt.
    pub prompt: Prompt,
    /// Sampling settings; what is `None` has the model's default.
    pub sampling: Sampling,
    /// Maximum number of generated tokens; by default, what fits.
    pub max_tokens: Option<usize>,
    /// `max_tokens` may be lowered to what fits, as the dialect requires clients to name a limit, so that they name a large
    /// one.
    pub may_lower_max_tokens: bool,
    /// Stop strings, which end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Number of most likely tokens whose log-probabilities are reported at each position, in addition to the generated
    /// token's; `None` for no log-probabilities.
    pub logprobs: Option<usize>,
    /// Constraint on the answer.
    pub format: ResponseFormat,
    /// Continue after end-of-sequence tokens, for benchmarks.
    pub ignore_eos: bool,
    /// Index among requests that are alike but for this, because a client asked for several answers. With a seed, each must
    /// have random numbers of its own.
    pub sample_idx: usize,
    /// Length of the context that the client asks for, prompt and answer together.
    pub context_tokens: Option<usize>,
    /// Time that the model stays in memory after this request.
    pub keep_alive: Option<KeepAlive>,
}

impl GenerateRequest {
    /// Creates a request with the model's defaults.
    pub fn new(model: impl Into<String>, prompt: Prompt) -> Self {
        Self {
            model: model.into(),
            prompt,
            sampling: Sampling::default(),
            max_tokens: None,
            may_lower_max_tokens: false,
            stop: Vec::new(),
            logprobs: None,
            format: ResponseFormat::Text,
            ignore_eos: false,
            sample_idx: 0,
            context_tokens: None,
            keep_alive: None,
        }
    }
}

/// The prompt of a request. Requests for several answers to it share it.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, which the model's chat template renders.
    Chat(Arc<Conversation>),
    /// Text that the answer continues.
    Text(Arc<str>),
    /// Tokens that the answer continues.
    Tokens(Arc<[u32]>),
}

/// Time that a model stays in memory after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until it is unloaded or another model needs the memory.
    Forever,
    /// For this time.
    For(Duration),
}

/// A request for embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedRequest {
    /// Id of the model.
    pub model: String,
    /// The texts.
    pub inputs: Vec<String>,
    /// Number of leading dimensions to keep; all by default.
    pub dimensions: Option<usize>,
    /// Cut texts that are longer than the context, instead of refusing them.
    pub truncate: bool,
    /// Time that the model stays in memory after this request.
    pub keep_alive: Option<KeepAlive>,
}
