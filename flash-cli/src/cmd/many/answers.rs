//! The file of answers: a JSON object in each line, in the order in which they are complete.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use flash_model::{BatchError, Generation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::prompts::Prompt;
use super::{in_line, read};

/// An answer, or the error in its place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    /// Index of the prompt's line.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Value>,
    /// SHA-256 of the prompt's tokens.
    prompt_sha256: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Answer { text: String, finish_reason: String, prompt_tokens: usize, generated_tokens: usize },
    Error { error: String },
}

impl Line {
    pub(super) fn new(prompt: &Prompt, answer: Result<Generation, BatchError>) -> Self {
        let outcome = match answer {
            Ok(generation) => Outcome::Answer {
                finish_reason: generation.finish_reason.as_str().to_owned(),
                prompt_tokens: generation.prompt_tokens,
                generated_tokens: generation.token_ids.len(),
                text: generation.text,
            },
            Err(error) => Outcome::Error { error: error.to_string() },
        };
        Self { index: prompt.index, id: prompt.id.clone(), prompt_sha256: prompt.sha256.clone(), outcome }
    }
}

/// The file of answers.
#[derive(Debug)]
pub(super) struct Answers {
    path: PathBuf,
    file: File,
    /// Whether each prompt has an answer that is not an error.
    are_answered: BTreeMap<usize, bool>,
}

impl Answers {
    /// Opens the file for appending, and reads the answers that it has. A last line that is incomplete is dropped.
    ///
    /// # Errors
    /// If a line is no answer, or the answer to another prompt.
    pub(super) fn open(path: &PathBuf, prompts: &[Prompt]) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        let text = read(path)?;
        let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
        let by_index: BTreeMap<_, _> = prompts.iter().map(|prompt| (prompt.index, prompt)).collect();
        let mut are_answered = BTreeMap::new();
        for (line_idx, line) in complete.lines().enumerate() {
            let Line { index, prompt_sha256, outcome, .. } =
                in_line(serde_json::from_str(line).context("no answer of `run --prompts`"), path, line_idx)?;
            if by_index.get(&index).is_none_or(|prompt| prompt.sha256 != prompt_sha256) {
                bail!(
                    "{}, line {}: the answer to another prompt than line {} of the prompts; use another --out",
                    path.display(),
                    line_idx + 1,
                    index + 1
                );
            }
            are_answered.insert(index, matches!(outcome, Outcome::Answer { .. }));
        }
        file.set_len(complete.len() as u64).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.clone(), file, are_answered })
    }

    /// Whether the prompt of this index is answered. Those with errors are tried again.
    pub(super) fn has(&self, index: usize) -> bool {
        self.are_answered.get(&index).copied().unwrap_or(false)
    }

    /// Appends a line.
    pub(super) fn add(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        // In one call, so that a program that is killed leaves at most one incomplete line.
        self.file.write_all(text.as_bytes()).with_context(|| self.path.display().to_string())
    }
}
