//! Parts of a model's output, and the tools it may call.

use serde_json::Value;

/// A part of a model's output.
///
/// A tool call is [`CallStart`](Self::CallStart), any number of [`CallArguments`](Self::CallArguments), and
/// [`CallEnd`](Self::CallEnd), or [`Broken`](Self::Broken) in place of the end. Nothing else comes between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Visible text.
    Text(String),
    /// Reasoning, which is not part of the answer.
    Reasoning(String),
    /// The start of a tool call.
    CallStart {
        /// Name of the tool. It may be none of the tools that the model was given.
        name: String,
        /// The id that the model gave to the call, in formats that have ids (Kimi K2, Mistral).
        id: Option<String>,
    },
    /// The next part of the arguments of the call that was started. All parts together are the text of a JSON object.
    CallArguments(String),
    /// The end of the call that was started: it is complete and valid.
    CallEnd,
    /// A call that is malformed or cut off. If it was started, it ends here, and its arguments are incomplete.
    Broken(BrokenCall),
}

/// A tool call that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model's tool call is invalid: {reason}")]
pub struct BrokenCall {
    /// The call as the model wrote it, with its markers.
    pub text: String,
    /// Why the call cannot be parsed.
    pub reason: String,
}

impl Piece {
    /// Joins neighboring pieces of the same kind.
    pub fn merge(pieces: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut merged = Vec::new();
        for piece in pieces {
            push_merged(&mut merged, piece);
        }
        merged
    }
}

/// Appends a piece, joined with the last one if that is text of the same kind.
pub(super) fn push_merged(pieces: &mut Vec<Piece>, piece: Piece) {
    match (pieces.last_mut(), piece) {
        (Some(Piece::Text(last)), Piece::Text(text))
        | (Some(Piece::Reasoning(last)), Piece::Reasoning(text))
        | (Some(Piece::CallArguments(last)), Piece::CallArguments(text)) => last.push_str(&text),
        (_, piece) => pieces.push(piece),
    }
}

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSchema {
    /// Name of the tool.
    pub name: String,
    /// JSON schema of the arguments, an object. Formats that write parameters without types need it to tell `5` from
    /// `"5"`.
    pub parameters: Value,
}

impl ToolSchema {
    /// Creates the schema of a tool.
    pub fn new(name: impl Into<String>, parameters: Value) -> Self {
        Self { name: name.into(), parameters }
    }
}
