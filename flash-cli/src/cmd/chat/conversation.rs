//! The messages, and which of their tokens the engine holds.

use std::fs;
use std::io;
use std::path::Path;

use flash_model::text::{ChatTemplate, Message, Tokenizer};
use flash_model::{Engine, GenerateOptions, Generation, ModelError, generate};
use serde::Serialize;

use crate::elastic::Watch;
use crate::session::Loaded;

pub(super) struct Conversation {
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    options: GenerateOptions,
    /// What a system prompt begins the conversation with.
    opening: Vec<Message>,
    messages: Vec<Message>,
    /// The tokens in the engine's cache.
    held: Vec<u32>,
    _watch: Option<Watch>,
}

/// What became of a question.
#[derive(Debug)]
pub(super) enum Turn {
    Answered(Generation),
    /// There was no room for it, and it was forgotten.
    Full {
        wanted_tokens: usize,
        context_tokens: usize,
    },
}

impl Conversation {
    pub(super) fn new(
        loaded: Loaded,
        template: ChatTemplate,
        options: GenerateOptions,
        system: Option<String>,
    ) -> Self {
        let Loaded { engine, tokenizer, watch, .. } = loaded;
        let opening: Vec<_> = system.into_iter().map(|text| Message::new("system", text)).collect();
        let (messages, held) = (opening.clone(), Vec::new());
        Self { engine, tokenizer, template, options, messages, opening, held, _watch: watch }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Answers a question. What is said so far and the question go through the template together, and only what differs
    /// from what the engine holds is computed.
    pub(super) fn ask(&mut self, question: &str, on_text: impl FnMut(&str)) -> Result<Turn, ModelError> {
        self.messages.push(Message::new("user", question));
        let turn = self.complete(on_text);
        match &turn {
            Ok(Turn::Answered(generation)) if !generation.token_ids.is_empty() => {
                self.messages.push(Message::new("assistant", generation.text.clone()));
            }
            // A question without an answer would stand before the next one.
            _ => drop(self.messages.pop()),
        }
        turn
    }

    fn complete(&mut self, on_text: impl FnMut(&str)) -> Result<Turn, ModelError> {
        let prompt = self.tokenizer.encode(&self.template.render(&self.messages, true)?, false)?;
        let context_tokens = self.engine.context_tokens();
        if prompt.len() >= context_tokens {
            return Ok(Turn::Full { wanted_tokens: prompt.len() + 1, context_tokens });
        }
        // One token at least must pass through the model, to give the next one.
        let n_common = common_prefix(&self.held, &prompt).min(prompt.len().saturating_sub(1));
        self.engine.truncate(n_common);
        let result = generate(&mut self.engine, &self.tokenizer, &prompt[n_common..], &self.options, on_text);
        self.held = prompt;
        if let Ok(generation) = &result {
            self.held.extend(&generation.token_ids);
        }
        // All but the last token after an answer; fewer if it was interrupted, or failed.
        self.held.truncate(self.engine.held_tokens());
        result.map(Turn::Answered)
    }

    /// Forgets everything but the system prompt.
    pub(super) fn reset(&mut self) {
        self.messages.clone_from(&self.opening);
        self.held.clear();
        self.engine.truncate(0);
    }

    /// Writes the messages as JSON, and returns their number.
    pub(super) fn save(&self, path: &Path) -> io::Result<usize> {
        #[derive(Serialize)]
        struct Saved<'a> {
            role: &'a str,
            content: &'a str,
        }
        let messages = self.messages.iter().map(|Message { role, content }| Saved { role, content });
        let messages: Vec<_> = messages.collect();
        let mut text = serde_json::to_string_pretty(&messages)?;
        text.push('\n');
        fs::write(path, text)?;
        Ok(messages.len())
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_prefix_ends_where_tokens_differ() {
        assert_eq!(common_prefix(&[1, 2, 3], &[1, 2, 4, 5]), 2);
        assert_eq!(common_prefix(&[1, 2], &[1, 2, 4]), 2);
        assert_eq!(common_prefix(&[], &[1]), 0);
    }
}
