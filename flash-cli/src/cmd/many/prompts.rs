//! The file of prompts: a JSON object in each line.

use std::path::PathBuf;

use anyhow::bail;
use flash_text::{ChatTemplate, Message, Tokenizer};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{in_line, read};
use crate::template::TemplateOptions;

/// A prompt of the file.
#[derive(Debug)]
pub(super) struct Prompt {
    /// Index of its line.
    pub(super) index: usize,
    /// The line's `id`, if it has one.
    pub(super) id: Option<Value>,
    /// SHA-256 of the tokens, in hexadecimal.
    pub(super) sha256: String,
    pub(super) ids: Vec<u32>,
}

/// A line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    id: Option<Value>,
    prompt: Option<String>,
    messages: Option<Vec<Turn>>,
}

/// A message of a conversation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: String,
    content: String,
}

impl Prompt {
    /// Reads all prompts. With a template, a prompt is a user message, and lines may have messages instead. Empty lines are
    /// skipped.
    pub(super) fn read(
        path: &PathBuf,
        tokenizer: &Tokenizer,
        template: Option<&(ChatTemplate, TemplateOptions)>,
    ) -> anyhow::Result<Vec<Self>> {
        let mut prompts = Vec::new();
        for (index, line) in read(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let input: Input = in_line(serde_json::from_str(line), path, index)?;
            let ids = in_line(input.tokens(tokenizer, template), path, index)?;
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            prompts.push(Self { index, id: input.id, sha256, ids });
        }
        if prompts.is_empty() {
            bail!("{}: there is no prompt", path.display());
        }
        Ok(prompts)
    }
}

impl Input {
    fn tokens(
        &self,
        tokenizer: &Tokenizer,
        template: Option<&(ChatTemplate, TemplateOptions)>,
    ) -> anyhow::Result<Vec<u32>> {
        let ids = match (template, &self.prompt, &self.messages) {
            (None, Some(prompt), None) => tokenizer.encode_prompt(prompt)?,
            (None, _, Some(_)) => bail!("`messages` need --chat"),
            (Some((template, options)), prompt, messages) => {
                let turns = match (prompt, messages) {
                    (Some(prompt), None) => vec![Message::new("user", prompt)],
                    (None, Some(turns)) => {
                        turns.iter().map(|turn| Message::new(&turn.role, &turn.content)).collect()
                    }
                    _ => bail!("a line has either `prompt` or `messages`"),
                };
                let messages: Vec<_> = options.system_message().into_iter().chain(turns).collect();
                // The chat template already contains the special tokens.
                tokenizer.encode(&template.render(&messages, true)?, false)?
            }
            (None, None, None) => bail!("there is no `prompt`"),
        };
        if ids.is_empty() {
            bail!("the prompt is empty");
        }
        Ok(ids)
    }
}
