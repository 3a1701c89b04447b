//! The messages of a conversation, and the engine that answers them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;
use flash_model::{Engine, GenerateOptions, Generation, ModelError, SessionContext, generate};
use flash_text::{ChatTemplate, Message, Tokenizer};

use crate::elastic::MemoryWatcher;
use crate::output::note;
use crate::session::{Loaded, Session};
use crate::template::{SYSTEM, TemplateOptions};
use crate::transcript::{self, Transcript, message_records};

/// A conversation with a loaded model.
pub(super) struct Conversation {
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    options: GenerateOptions,
    /// The system prompt, if any, which survives a reset.
    opening: Vec<Message>,
    messages: Vec<Message>,
    /// Name and directory of the session, if there is one.
    session: Option<(String, PathBuf)>,
    _watcher: Option<MemoryWatcher>,
}

/// Initial state of a conversation.
#[derive(Debug)]
pub(super) struct Opening {
    system: Option<Message>,
    messages: Vec<Message>,
    session: Option<(String, PathBuf)>,
    /// Number of tokens in the KV cache of the session.
    pub(super) held_tokens: usize,
}

impl Opening {
    /// Reads the messages of the session, or starts with the system prompt.
    pub(super) fn new(
        session: &Session,
        context: Option<&SessionContext>,
        options: &TemplateOptions,
    ) -> anyhow::Result<Self> {
        let place = session.session_name().zip(context);
        let mut messages = match place {
            Some((name, context)) => Transcript::messages(context.dir(), name)?,
            None => Vec::new(),
        };
        if let Some((name, _)) = place {
            options.check_system(name, &messages)?;
        }
        if messages.is_empty() {
            messages.extend(options.system_message());
        }
        let held_tokens = context.map_or(0, |context| context.token_ids().len());
        let session = place.map(|(name, context)| (name.to_owned(), context.dir().to_owned()));
        Ok(Self { system: options.system_message(), messages, session, held_tokens })
    }
}

/// Outcome of a question.
#[derive(Debug)]
pub(super) enum Turn {
    Answered(Generation),
    /// The question does not fit in the context, and was dropped.
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
        opening: Opening,
    ) -> Self {
        let Loaded { engine, tokenizer, watcher, .. } = loaded;
        let Opening { system, messages, session, .. } = opening;
        let opening = system.or_else(|| system_message(&messages)).into_iter().collect();
        Self { engine, tokenizer, template, options, opening, messages, session, _watcher: watcher }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Answers a question. The template renders the whole conversation, and only the tokens after the prefix that the
    /// engine already holds are computed.
    pub(super) fn ask(&mut self, question: &str, on_text: impl FnMut(&str)) -> anyhow::Result<Turn> {
        self.messages.push(Message::new("user", question));
        let turn = self.complete(on_text).map_err(anyhow::Error::from);
        match &turn {
            Ok(Turn::Answered(generation)) if !generation.token_ids.is_empty() => {
                self.messages.push(Message::new("assistant", generation.text.clone()));
            }
            // An unanswered question is dropped: otherwise two user messages would follow each other.
            _ => drop(self.messages.pop()),
        }
        // Sealed pages are on the disk, so the transcript must be, too.
        if turn.is_ok()
            && let Some((_, dir)) = &self.session
        {
            Transcript::chat(&self.messages).write(dir)?;
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
        if let Err(error) = self.engine.share_prefix(prompt.len()) {
            note(&format!("the prompt was not added to the prefix cache: {error}"));
        }
        Ok(Turn::Answered(generation))
    }

    /// Drops all messages but the system prompt.
    pub(super) fn reset(&mut self) {
        // The engine drops its tokens when the next prompt differs from them.
        self.messages.clone_from(&self.opening);
    }

    /// Saves the session, if there is one.
    pub(super) fn save(&mut self) -> anyhow::Result<()> {
        if let Some((_, dir)) = &self.session {
            Transcript::chat(&self.messages).write(dir)?;
            self.engine.save()?;
        }
        Ok(())
    }

    /// Saves the conversation as a session, and returns the number of messages.
    pub(super) fn save_as(&mut self, name: &str) -> anyhow::Result<usize> {
        if self.session.as_ref().is_some_and(|(own, _)| own == name) {
            self.save()?;
        } else {
            let transcript = Transcript::chat(&self.messages);
            self.engine.save_as(name, |dir| transcript.write(dir))?;
        }
        Ok(self.messages.len())
    }

    /// Loads a copy of a session, and returns the number of messages. The session itself stays unchanged.
    pub(super) fn load_from(&mut self, name: &str) -> anyhow::Result<usize> {
        if self.session.as_ref().is_some_and(|(own, _)| own == name) {
            bail!("session {name} is already the session of this conversation");
        }
        let (messages, resumption) = self.engine.take_from(name, |dir| Transcript::messages(dir, name))?;
        transcript::report_recovery(name, self.engine.held_tokens(), &resumption);
        self.opening = system_message(&messages).into_iter().collect();
        self.messages = messages;
        Ok(self.messages.len())
    }

    /// Writes the messages to a file as JSON, and returns their number.
    pub(super) fn export(&self, path: &Path) -> io::Result<usize> {
        let mut text = serde_json::to_string_pretty(&message_records(&self.messages))?;
        text.push('\n');
        fs::write(path, text)?;
        Ok(self.messages.len())
    }
}

/// Returns the system prompt of a conversation, if it has one.
fn system_message(messages: &[Message]) -> Option<Message> {
    messages.first().filter(|message| message.role == SYSTEM).cloned()
}
