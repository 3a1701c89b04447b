//! The messages.

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
        let messages = opening.clone();
        Self { engine, tokenizer, template, options, messages, opening, _watch: watch }
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
        let n_held = self.engine.reuse(&prompt)?;
        let generation =
            generate(&mut self.engine, &self.tokenizer, &prompt[n_held..], &self.options, on_text)?;
        Ok(Turn::Answered(generation))
    }

    /// Forgets everything but the system prompt.
    pub(super) fn reset(&mut self) {
        // What the engine holds is told from the next prompt when that comes.
        self.messages.clone_from(&self.opening);
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
