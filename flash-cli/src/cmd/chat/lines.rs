//! Reads input lines from a terminal, pipe or file.

mod editor;
mod plain;

use std::io::{self, IsTerminal};

use crate::interrupt::SignalGuard;

use editor::Editor;
pub(super) use plain::Line;
use plain::Plain;

/// Source of input lines: a line editor on a terminal, or plain reads otherwise.
pub(super) enum Lines {
    Editor(Box<Editor>),
    Plain(Plain),
}

impl Lines {
    pub(super) fn open(guard: &SignalGuard<'_>) -> anyhow::Result<Self> {
        let stdin = io::stdin();
        Ok(if stdin.is_terminal() {
            Self::Editor(Box::new(Editor::new(guard)?))
        } else {
            Self::Plain(Plain::new(&stdin, guard)?)
        })
    }

    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// Returns the next line; none at the end of the input, or if a signal ends the conversation.
    pub(super) fn next(&mut self, guard: &SignalGuard<'_>) -> anyhow::Result<Option<Line>> {
        match self {
            Self::Editor(editor) => Ok(editor.next(guard)?.map(Line::Text)),
            Self::Plain(plain) => Ok(plain.next(guard)?),
        }
    }
}
