//! `chat`: an interactive conversation that keeps its KV cache between turns.

mod command;
mod conversation;
mod lines;

use std::process::ExitCode;

use flash_model::{Engine, FinishReason, Generation, Workload};

use self::command::Command;
use self::conversation::{Conversation, Opening, Turn};
use self::lines::{Line, Lines};
use crate::interrupt::{self, SignalGuard, Signals};
use crate::options::ChatOptions;
use crate::output::{TextStream, note};
use crate::sampling::model_defaults;
use crate::session::Session;
use crate::size::Bytes;
use crate::{failure, report};

/// Default context size, unless the model was trained for less.
const CONTEXT_TOKENS: usize = 4096;

const WELCOME: &str = "Type a message, or /help. Ctrl-C stops an answer, Ctrl-D exits.";

pub(crate) fn run(options: ChatOptions) -> anyhow::Result<ExitCode> {
    let ChatOptions { engine, template: template_options, context_tokens, mut generate, sampling } = options;
    let debug = engine.debug;
    let session = Session::open(engine)?;
    let template = template_options.open(session.dir())?;
    generate.sampler = sampling.over(&model_defaults(session.dir())?);
    sampling.note_seed(&generate.sampler, debug);
    let context = session.open_context()?;
    let opening = Opening::new(&session, context.as_ref(), &template_options)?;
    let workload = workload(&session, context_tokens, opening.held_tokens);
    let workload = session.with_drafts(workload, generate.speculation);
    let loaded = session.load_with(workload, context, None)?;
    let signals = Signals::new(loaded.engine.interrupt())?;
    let mut chat = Chat { conversation: Conversation::new(loaded, template, generate, opening), last: None };

    // The guard lives until the end: a signal stops the work, and the session is still saved.
    let guard = signals.guard();
    let mut lines = Lines::open(&guard)?;
    if lines.is_interactive() {
        note(WELCOME);
    }
    while let Some(line) = lines.next(&guard)? {
        let line = match line {
            Line::Text(line) => line,
            Line::NotText { at } => {
                note(&format!("(Skipped a line that is not UTF-8 text: invalid byte at offset {at}.)"));
                continue;
            }
        };
        match Command::parse(&line) {
            None if line.trim().is_empty() => {}
            None => match chat.answer(&line, &guard) {
                // A failed answer does not end an interactive conversation.
                Err(error) if lines.is_interactive() || guard.is_terminated() => {
                    failure::report(&error);
                }
                result => result?,
            },
            Some(Ok(Command::Exit)) => break,
            Some(Ok(command)) => chat.execute(&command),
            Some(Err(error)) => note(&error),
        }
    }
    chat.conversation.save()?;
    Ok(if guard.is_stopped() { ExitCode::from(interrupt::exit_code()) } else { ExitCode::SUCCESS })
}

/// Returns the workload of the conversation, in which a prompt may fill the whole context.
fn workload(session: &Session, context_tokens: Option<usize>, held_tokens: usize) -> Workload {
    let trained_tokens = session.model.max_context_tokens().unwrap_or(CONTEXT_TOKENS);
    let context_tokens =
        context_tokens.unwrap_or_else(|| CONTEXT_TOKENS.max(2 * held_tokens).min(trained_tokens));
    session.workload(context_tokens, 0)
}

/// State of the interactive loop.
struct Chat {
    conversation: Conversation,
    /// The last answer, for `/stats`.
    last: Option<Generation>,
}

impl Chat {
    fn answer(&mut self, question: &str, guard: &SignalGuard<'_>) -> anyhow::Result<()> {
        let mut text = TextStream::new(self.engine().interrupt());
        let turn = self.conversation.ask(question, |piece| text.push(piece));
        // Ctrl-C stops the answer, not the conversation.
        guard.clear_interrupt();
        match turn? {
            Turn::Full { wanted_tokens, context_tokens } => note(&format!(
                "The conversation needs {wanted_tokens} tokens, but the context holds {context_tokens}: \
                 start over with /reset, or use a larger --ctx."
            )),
            Turn::Answered(generation) => {
                text.finish()?;
                if generation.finish_reason == FinishReason::Length {
                    note("(The answer was cut off at --max-tokens, or at the end of the context.)");
                }
                self.last = Some(generation);
            }
        }
        Ok(())
    }

    fn execute(&mut self, command: &Command) {
        match command {
            Command::Exit => unreachable!("it ends the loop"),
            Command::Help => note(command::HELP),
            Command::Reset => {
                self.conversation.reset();
                note("Started a new conversation.");
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
