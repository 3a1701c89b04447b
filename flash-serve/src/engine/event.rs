//! Events of a generation.

use std::time::Duration;

use super::EngineError;

/// An event of a generation.
///
/// The order is [`Started`](Self::Started), then text, reasoning and calls, then [`Done`](Self::Done) or
/// [`Error`](Self::Error), after which nothing follows. An error may also come first. Between
/// [`CallStart`](Self::CallStart) and [`CallEnd`](Self::CallEnd) come only [`CallArguments`](Self::CallArguments); if the
/// generation ends within a call, its end is missing.
#[derive(Debug, Clone)]
pub enum Event {
    /// The prompt was admitted and its computation begins.
    Started(Started),
    /// A part of the answer.
    Text(Text),
    /// A part of the reasoning that precedes the answer.
    Reasoning(String),
    /// A tool call begins.
    CallStart(CallStart),
    /// A part of the call's arguments; all parts together are a JSON object.
    CallArguments(String),
    /// The tool call is complete.
    CallEnd,
    /// The generation is complete.
    Done(Done),
    /// The generation failed.
    Error(EngineError),
}

/// Facts about an admitted prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Started {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were computed before.
    pub cached_tokens: usize,
}

/// A part of an answer's text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text {
    /// The text, cut between characters.
    pub text: String,
    /// Its tokens, if the request asked for log-probabilities.
    pub logprobs: Vec<TokenLogprob>,
}

/// A generated token with its log-probability.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenLogprob {
    /// Bytes of the token, which may be a part of a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most likely tokens at this position with their log-probabilities, most likely first.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// The beginning of a tool call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallStart {
    /// Id that the model gave to the call; without one, the server makes one up.
    pub id: Option<String>,
    /// Name of the tool.
    pub name: String,
}

/// The reason why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FinishReason {
    /// The model ended its answer.
    #[default]
    Stop,
    /// This stop string was generated. It is not part of the text.
    StopString(String),
    /// The limit of generated tokens, or the length of the context, was reached.
    Length,
    /// The model waits for the results of its tool calls.
    ToolCalls,
}

/// The end of a generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    /// The reason why it ended.
    pub finish: FinishReason,
    /// Tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
    /// Problems that did not end the generation, such as a tool call that could not be parsed and became text.
    pub warnings: Vec<String>,
}

/// Tokens of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were computed before.
    pub cached_tokens: usize,
    /// Generated tokens, including reasoning.
    pub completion_tokens: usize,
    /// Generated tokens of reasoning.
    pub reasoning_tokens: usize,
}

/// Times of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Time that the request waited for others.
    pub queue: Duration,
    /// Time that it took to load the model.
    pub load: Duration,
    /// Time from the end of waiting to the first token.
    pub prompt: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
}
