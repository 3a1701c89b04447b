//! The messages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;
use flash_model::{Engine, GenerateOptions, Generation, ModelError, SessionContext, generate};
use flash_text::{ChatTemplate, Message, Tokenizer};

use crate::elastic::Watch;
use crate::kept::{self, Kept, kept_messages};
use crate::output::note;
use crate::session::{Loaded, Session};

/// Who speaks first, if someone does before the user.
const SYSTEM: &str = "system";

pub(super) struct Conversation {
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    options: GenerateOptions,
    /// What a system prompt begins the conversation with.
    opening: Vec<Message>,
    messages: Vec<Message>,
    /// The session that is gone on with: its name and directory.
    session: Option<(String, PathBuf)>,
    _watch: Option<Watch>,
}

/// What a conversation begins with.
#[derive(Debug)]
pub(super) struct Opening {
    system: Option<String>,
    messages: Vec<Message>,
    session: Option<(String, PathBuf)>,
    /// Tokens that the session holds.
    pub(super) held_tokens: usize,
}

impl Opening {
    /// What the session holds, or else what is said to the model first.
    pub(super) fn new(
        session: &Session,
        context: Option<&SessionContext>,
        system: Option<String>,
    ) -> anyhow::Result<Self> {
        let place = session.context_name().zip(context);
        let mut messages = match place {
            Some((name, context)) => Kept::messages(context.dir(), name)?,
            None => Vec::new(),
        };
        if let Some((name, _)) = place
            && let Some(first) = messages.first()
            && system.as_ref().is_some_and(|system| first.role != SYSTEM || first.content != *system)
        {
            bail!("session {name} began without this --system: leave it away, or begin another session");
        }
        if messages.is_empty() {
            messages.extend(system.clone().map(|text| Message::new(SYSTEM, text)));
        }
        let held_tokens = context.map_or(0, |context| context.token_ids().len());
        let session = place.map(|(name, context)| (name.to_owned(), context.dir().to_owned()));
        Ok(Self { system, messages, session, held_tokens })
    }
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
        opening: Opening,
    ) -> Self {
        let Loaded { engine, tokenizer, watch, .. } = loaded;
        let Opening { system, messages, session, .. } = opening;
        let said = system.map(|text| Message::new(SYSTEM, text));
        let opening = said.or_else(|| system_of(&messages)).into_iter().collect();
        Self { engine, tokenizer, template, options, opening, messages, session, _watch: watch }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Answers a question. What is said so far and the question go through the template together, and only what differs
    /// from what the engine holds is computed.
    pub(super) fn ask(&mut self, question: &str, on_text: impl FnMut(&str)) -> anyhow::Result<Turn> {
        self.messages.push(Message::new("user", question));
        let turn = self.complete(on_text).map_err(anyhow::Error::from);
        match &turn {
            Ok(Turn::Answered(generation)) if !generation.token_ids.is_empty() => {
                self.messages.push(Message::new("assistant", generation.text.clone()));
            }
            // A question without an answer would stand before the next one.
            _ => drop(self.messages.pop()),
        }
        // Pages that were sealed are on the disk; what was said is now, too.
        if turn.is_ok()
            && let Some((_, dir)) = &self.session
        {
            Kept::chat(&self.messages).write(dir)?;
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
            note(&format!("the prompt is not kept for others: {error}"));
        }
        Ok(Turn::Answered(generation))
    }

    /// Forgets everything but the system prompt.
    pub(super) fn reset(&mut self) {
        // What the engine holds is told from the next prompt when that comes.
        self.messages.clone_from(&self.opening);
    }

    /// Saves the session that is gone on with, if one is.
    pub(super) fn save(&mut self) -> anyhow::Result<()> {
        if let Some((_, dir)) = &self.session {
            Kept::chat(&self.messages).write(dir)?;
            self.engine.save()?;
        }
        Ok(())
    }

    /// Keeps the conversation as a session, and returns the number of its messages.
    pub(super) fn save_as(&mut self, name: &str) -> anyhow::Result<usize> {
        if self.session.as_ref().is_some_and(|(own, _)| own == name) {
            self.save()?;
        } else {
            let kept = Kept::chat(&self.messages);
            self.engine.save_as(name, |dir| kept.write(dir))?;
        }
        Ok(self.messages.len())
    }

    /// Goes on with what a session holds, and returns the number of its messages. The session itself stays as it is.
    pub(super) fn load_from(&mut self, name: &str) -> anyhow::Result<usize> {
        if self.session.as_ref().is_some_and(|(own, _)| own == name) {
            bail!("session {name} is the one that this conversation goes on with");
        }
        let (messages, resumption) = self.engine.take_from(name, |dir| Kept::messages(dir, name))?;
        kept::tell(name, self.engine.held_tokens(), &resumption);
        self.opening = system_of(&messages).into_iter().collect();
        self.messages = messages;
        Ok(self.messages.len())
    }

    /// Writes the messages as JSON, and returns their number.
    pub(super) fn export(&self, path: &Path) -> io::Result<usize> {
        let mut text = serde_json::to_string_pretty(&kept_messages(&self.messages))?;
        text.push('\n');
        fs::write(path, text)?;
        Ok(self.messages.len())
    }
}

/// What is said to the model before the conversation.
fn system_of(messages: &[Message]) -> Option<Message> {
    messages.first().filter(|message| message.role == SYSTEM).cloned()
}
