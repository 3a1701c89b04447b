//! What the person types, line by line.

mod editor;
mod plain;

use std::io::{self, IsTerminal};

use crate::interrupt::Caught;

use editor::Editor;
use plain::Plain;

/// Lines from an editor on a terminal, or as they come from elsewhere.
pub(super) enum Lines {
    Editor(Box<Editor>),
    Plain(Plain),
}

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// Bytes that are not UTF-8.
    NotText {
        /// The place of the first of them in the line.
        at: usize,
    },
}

impl Lines {
    pub(super) fn open(caught: &Caught<'_>) -> anyhow::Result<Self> {
        let stdin = io::stdin();
        Ok(if stdin.is_terminal() {
            Self::Editor(Box::new(Editor::new(caught)?))
        } else {
            Self::Plain(Plain::new(&stdin, caught)?)
        })
    }

    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// The next line; none if there are no more, or a signal has ended the conversation.
    pub(super) fn next(&mut self, caught: &Caught<'_>) -> anyhow::Result<Option<Line>> {
        match self {
            Self::Editor(editor) => Ok(editor.next(caught)?.map(Line::Text)),
            Self::Plain(plain) => Ok(plain.next(caught)?),
        }
    }
}
