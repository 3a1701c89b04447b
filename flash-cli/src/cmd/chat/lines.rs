//! What the person types, line by line.

use std::io::{self, BufRead, IsTerminal};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::output::note;

const PROMPT: &str = "> ";

/// Lines from an editor on a terminal, or as they come from elsewhere.
pub(super) enum Lines {
    Editor(Box<DefaultEditor>),
    Plain(io::Stdin),
}

impl Lines {
    pub(super) fn open() -> Result<Self, ReadlineError> {
        let stdin = io::stdin();
        Ok(if stdin.is_terminal() {
            Self::Editor(Box::new(DefaultEditor::new()?))
        } else {
            Self::Plain(stdin)
        })
    }

    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// The next line, without its end; none if there are no more.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Editor(editor) => edit(editor),
            Self::Plain(stdin) => {
                let mut line = String::new();
                let n_bytes = stdin.lock().read_line(&mut line)?;
                line.truncate(line.trim_end_matches(['\r', '\n']).len());
                Ok((n_bytes > 0).then_some(line))
            }
        }
    }
}

fn edit(editor: &mut DefaultEditor) -> anyhow::Result<Option<String>> {
    let mut interrupted = false;
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                editor.add_history_entry(&line)?;
                return Ok(Some(line));
            }
            Err(ReadlineError::Interrupted) if !interrupted => {
                interrupted = true;
                note("(Ctrl-C again, or Ctrl-D, leaves.)");
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}
