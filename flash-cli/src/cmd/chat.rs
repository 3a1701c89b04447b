//! `chat`: a conversation that keeps its KV cache between turns.

mod command;
mod conversation;
mod lines;

use std::process::ExitCode;

use flash_model::{Engine, FinishReason, Generation, Workload};
use flash_text::ChatTemplate;

use self::command::Command;
use self::conversation::{Conversation, Opening, Turn};
use self::lines::{Line, Lines};
use crate::interrupt::{self, Caught, Signals};
use crate::options::ChatOptions;
use crate::output::{TextStream, note};
use crate::session::Session;
use crate::size::Bytes;
use crate::{failure, report};

/// The context, unless someone says or the model was trained for less.
const CONTEXT_TOKENS: usize = 4096;

const WELCOME: &str = "Ask, or type /help. Ctrl-C stops an answer, Ctrl-D leaves.";

pub(crate) fn run(options: ChatOptions) -> anyhow::Result<ExitCode> {
    let ChatOptions { engine, system, context_tokens, generate } = options;
    if engine.debug {
        note(&format!("seed: {}", generate.sampler.seed));
    }
    let session = Session::open(engine)?;
    let template = ChatTemplate::open(session.dir())?;
    let context = session.context()?;
    let opening = Opening::new(&session, context.as_ref(), system)?;
    let workload = workload(&session, context_tokens, opening.held_tokens);
    let loaded = session.load_with(workload, context, None)?;
    let signals = Signals::new(loaded.engine.interrupt())?;
    let mut chat = Chat { conversation: Conversation::new(loaded, template, generate, opening), last: None };

    // Until the end: whatever a signal stops, the session is saved.
    let caught = signals.catch();
    let mut lines = Lines::open(&caught)?;
    if lines.is_interactive() {
        note(WELCOME);
    }
    while let Some(line) = lines.next(&caught)? {
        let line = match line {
            Line::Text(line) => line,
            Line::NotText { at } => {
                note(&format!("(A line was skipped: it is not UTF-8 text from its byte {at} on.)"));
                continue;
            }
        };
        match Command::parse(&line) {
            None if line.trim().is_empty() => {}
            None => match chat.answer(&line, &caught) {
                // The conversation is not lost with the answer, as long as there is someone to go on with it.
                Err(error) if lines.is_interactive() || caught.is_terminated() => {
                    failure::report(&error);
                }
                result => result?,
            },
            Some(Ok(command)) => chat.obey(&command),
            Some(Err(complaint)) => note(&complaint),
        }
    }
    chat.conversation.save()?;
    Ok(if caught.is_stopped() { ExitCode::from(interrupt::exit_code()) } else { ExitCode::SUCCESS })
}

/// A turn may be as long as the context.
fn workload(session: &Session, context_tokens: Option<usize>, held_tokens: usize) -> Workload {
    let trained_tokens = session.model.max_context_tokens().unwrap_or(CONTEXT_TOKENS);
    let context_tokens =
        context_tokens.unwrap_or_else(|| CONTEXT_TOKENS.max(2 * held_tokens).min(trained_tokens));
    session.workload(context_tokens, 0)
}

struct Chat {
    conversation: Conversation,
    /// The last answer.
    last: Option<Generation>,
}

impl Chat {
    fn answer(&mut self, question: &str, caught: &Caught<'_>) -> anyhow::Result<()> {
        let mut text = TextStream::new(self.engine().interrupt());
        let turn = self.conversation.ask(question, |piece| text.push(piece));
        // A Ctrl-C stops an answer, and not the conversation.
        caught.resume();
        match turn? {
            Turn::Full { wanted_tokens, context_tokens } => note(&format!(
                "The conversation would have {wanted_tokens} tokens, and the context holds {context_tokens}: \
                 /reset begins a new one, and --ctx makes more room."
            )),
            Turn::Answered(generation) => {
                text.finish()?;
                if generation.finish_reason == FinishReason::Length {
                    note("(The answer was cut: it reached --max-tokens, or the end of the context.)");
                }
                self.last = Some(generation);
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: &Command) {
        match command {
            Command::Help => note(command::HELP),
            Command::Reset => {
                self.conversation.reset();
                note("A new conversation begins.");
            }
            Command::Stats => note(&self.stats()),
            Command::Save(name) => match self.conversation.save_as(name) {
                Ok(n_messages) => note(&format!("session {name}: {n_messages} messages")),
                Err(error) => drop(failure::report(&error)),
            },
            Command::Load(name) => match self.conversation.load_from(name) {
                Ok(n_messages) => note(&format!("session {name}: {n_messages} messages")),
                Err(error) => drop(failure::report(&error)),
            },
            Command::Export(path) => match self.conversation.export(path) {
                Ok(n_messages) => note(&format!("{}: {n_messages} messages", path.display())),
                Err(error) => note(&format!("{}: {error}", path.display())),
            },
        }
    }

    fn stats(&self) -> String {
        let (engine, stats) = (self.engine(), self.engine().stats());
        let context = format!("context {} of {} tokens", engine.held_tokens(), engine.context_tokens());
        match &self.last {
            Some(generation) => format!("{context}; last answer: {}", report::summary(&stats, generation)),
            None => format!("{context}; budget {}, no answer yet", Bytes(stats.budget_bytes)),
        }
    }

    fn engine(&self) -> &Engine {
        self.conversation.engine()
    }
}
