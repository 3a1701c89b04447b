//! The interface of parsers of tool calls.

use std::fmt::Debug;

use serde_json::Value;

use super::piece::ToolSchema;
use super::sink::Sink;

/// Why a call that the output ends inside of is broken.
const CUT_OFF: &str = "the output ends inside of the call";

/// Outcome of a step of a [`CallParser`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The call goes on.
    More,
    /// The call is complete, including the character or marker.
    Done,
    /// The text since the start, or since the last complete call, is not a call. The character is read again.
    NotACall,
    /// The call is malformed, for the reason given.
    Broken(String),
}

impl Step {
    /// Returns the step for a malformed call.
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(reason.into())
    }

    /// Returns the step for a call that the output ends inside of.
    pub(super) fn cut_off() -> Self {
        Self::broken(CUT_OFF)
    }

    /// Returns the step for a part of a call that may be malformed.
    pub(super) fn of<T, E: Into<String>>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::More,
            Err(reason) => Self::broken(reason),
        }
    }
}

/// Parses a call, or several that directly follow each other, from the marker that starts it.
pub(super) trait CallParser: Debug + Send + Sync {
    /// Returns the markers that can come next. Other text arrives by character.
    fn markers(&self) -> &'static [&'static str];

    /// Takes a marker, one of [`markers`](Self::markers).
    fn marker(&mut self, marker: &'static str, tools: &Tools, out: &mut Sink) -> Step;

    /// Takes a character.
    fn char(&mut self, c: char, tools: &Tools, out: &mut Sink) -> Step;

    /// Takes the end of the output.
    fn finish(&mut self, tools: &Tools, out: &mut Sink) -> Step;
}

/// The tools that the model was given.
#[derive(Clone, Debug)]
pub(super) struct Tools(Vec<ToolSchema>);

impl Tools {
    pub(super) fn new(tools: &[ToolSchema]) -> Self {
        Self(tools.to_vec())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.schema(name).is_some()
    }

    /// Returns the schema of the arguments of a tool.
    pub(super) fn schema(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|tool| tool.name == name).map(|tool| &tool.parameters)
    }
}

/// Returns whether a character is white space between the parts of a call.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

/// Returns whether a character can be part of the name of a tool, by the widest rule of the families.
pub(super) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/')
}
