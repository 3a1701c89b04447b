//! The interface of parsers of tool calls.

use std::fmt::Debug;

use super::sink::Sink;

/// Why a call that the output ends inside of is broken.
pub(super) const CUT_OFF: &str = "the output ends inside of the call";

/// Outcome of a step of a [`CallParser`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The call goes on.
    More,
    /// The call is complete, including the character or marker.
    Done,
    /// The call was complete before the character.
    DoneBefore,
    /// The text is not a call. The character is read again, as text.
    NotACall,
    /// The call is malformed, for the reason given.
    Broken(String),
}

impl Step {
    /// Returns the step for a malformed call.
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(reason.into())
    }
}

/// Parses a call, or several that directly follow each other, from behind the marker that starts it.
pub(super) trait CallParser: Debug + Send + Sync {
    /// Returns the markers that can come next. Other text arrives by character.
    fn markers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Takes a marker, one of [`markers`](Self::markers).
    fn marker(&mut self, marker: &'static str, out: &mut Sink) -> Step;

    /// Takes a character.
    fn char(&mut self, c: char, out: &mut Sink) -> Step;

    /// Takes the end of the output. [`Step::More`] and [`Step::DoneBefore`] are not returned.
    fn finish(&mut self, out: &mut Sink) -> Step;
}

/// Returns whether a character is white space between the parts of a call.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

/// Returns whether a character can be part of the name of a tool, by the widest rule of the families.
pub(super) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/')
}
