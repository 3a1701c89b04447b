//! Reasons why an engine does not answer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// A reason why a request is not answered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such model.
    #[error("model '{id}' not found{}", known_models(.known))]
    UnknownModel {
        /// Id in the request.
        id: String,
        /// Ids that would work.
        known: Vec<String>,
    },
    /// The prompt is longer than the model's context or what memory allows.
    #[error("prompt is too long: {prompt_tokens} tokens > {max_prompt_tokens} maximum")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the longest prompt that would be admitted.
        max_prompt_tokens: usize,
    },
    /// The prompt fits, but not with as many generated tokens as the request asks for.
    #[error(
        "{prompt_tokens} tokens of the prompt and {max_tokens} of the answer do not fit; at most {max_tokens_that_fit} of \
         the answer would"
    )]
    AnswerTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the answer that the request asks for.
        max_tokens: usize,
        /// Tokens of the answer that would be admitted.
        max_tokens_that_fit: usize,
    },
    /// The model does not fit into the memory budget.
    #[error("model '{model}' needs {needed_bytes} B of memory, the budget is {budget_bytes} B")]
    ModelTooLarge {
        /// Id of the model.
        model: String,
        /// Smallest budget that would work.
        needed_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// Too many requests are waiting.
    #[error("{n_waiting} requests are waiting already; try again in {} s", .retry_after.as_secs().max(1))]
    QueueFull {
        /// Requests that wait.
        n_waiting: usize,
        /// Time after which the queue probably has room, by measured rates.
        retry_after: Duration,
    },
    /// A setting cannot be used.
    #[error("{field}: {problem}")]
    InvalidSetting {
        /// Its name.
        field: String,
        /// The problem, as the rest of a sentence.
        problem: String,
    },
    /// The model cannot do what the request needs.
    #[error("model '{model}' does not support {what}")]
    Unsupported {
        /// Id of the model.
        model: String,
        /// The unsupported feature, such as `tools`.
        what: String,
    },
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The engine failed.
    #[error(transparent)]
    Failed(#[from] EngineError),
}

fn known_models(known: &[String]) -> String {
    match known {
        [] => String::new(),
        known => format!("; there is {}", known.join(", ")),
    }
}

/// A failure of an engine while it works on a request.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A model failed.
    #[error("model '{model}' failed: {source}")]
    Model {
        /// Id of the model.
        model: String,
        /// Why it failed.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The engine ended without an answer, which is a bug of it.
    #[error("the engine stopped before the answer was complete")]
    Stopped,
    /// The engine panicked, which is a bug of it.
    #[error("the engine panicked: {message}")]
    Panicked {
        /// Message of the panic.
        message: String,
    },
}
