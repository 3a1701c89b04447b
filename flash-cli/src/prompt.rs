//! Reads prompts from flags, files and standard input.

use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use flash_model::ModelError;

use crate::usage::UsageError;

/// Returns the prompt: `given`, or the text of `file`, or of standard input (also for the file `-`). It is used unchanged, line ends included.
pub(crate) fn text(given: Option<String>, file: Option<PathBuf>) -> anyhow::Result<String> {
    let prompt = match (given, file) {
        (Some(prompt), _) => prompt,
        (None, Some(path)) if path.as_os_str() == "-" => from_stdin()?,
        (None, Some(path)) => read(&path)?,
        (None, None) => from_stdin()?,
    };
    if prompt.is_empty() {
        return Err(ModelError::EmptyPrompt.into());
    }
    Ok(prompt)
}

fn from_stdin() -> anyhow::Result<String> {
    let mut stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(UsageError::NoPrompt.into());
    }
    let mut bytes = Vec::new();
    stdin.read_to_end(&mut bytes).context("standard input")?;
    utf8("standard input", bytes)
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    utf8(path.display(), bytes)
}

fn utf8(source: impl Display, bytes: Vec<u8>) -> anyhow::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow!("{source}: not UTF-8 text: invalid byte 0x{:02x} at offset {at}", error.as_bytes()[at])
    })
}
