//! Where a prompt comes from.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use anyhow::Context;
use flash_model::ModelError;

use crate::options::UsageError;

/// The prompt: given, in a file, or on standard input. It is taken as it is, line ends included.
pub(crate) fn text(given: Option<String>, file: Option<PathBuf>) -> anyhow::Result<String> {
    let prompt = match (given, file) {
        (Some(prompt), _) => prompt,
        (None, Some(path)) => fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?,
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
    let mut prompt = String::new();
    stdin.read_to_string(&mut prompt).context("standard input")?;
    Ok(prompt)
}
