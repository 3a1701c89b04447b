//! Answering many prompts at once, on a thread of its own.

mod driver;
mod request;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use flash_text::Tokenizer;

use super::{Engine, GenerateOptions};
use driver::{Driver, InPass};
use request::Submission;

pub use request::{Answer, BatchError, StartError};

/// Default of [`BatchOptions::max_pass`].
const MAX_PASS: Duration = Duration::from_millis(250);

/// Options of a [`Batch`]. Create with [`default`](Self::default), then set fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOptions {
    /// Time that a pass may take for the sake of waiting prompts while others are answered: 250 ms by default. A pass that
    /// reads weights for longer has that time.
    pub max_pass: Duration,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { max_pass: MAX_PASS }
    }
}

/// A prompt and how to answer it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Options of the answer.
    pub options: GenerateOptions,
}

impl Request {
    /// Creates a request.
    pub fn new(prompt: Vec<u32>, options: GenerateOptions) -> Self {
        Self { prompt, options }
    }
}

/// A model that answers many prompts at once: every pass over the weights computes the next token of each, and parts of
/// the prompts that wait, as many rows as cost nothing.
///
/// An engine runs on a thread of its own. Answers have the same bits as if each prompt ran alone, if CPU kernels compute.
/// Up to [`Workload::n_contexts`](super::Workload::n_contexts) prompts are answered at a time; others wait in order.
/// Dropping a batch ends all answers.
#[derive(Debug)]
pub struct Batch {
    commands: Option<Sender<Submission>>,
    in_pass: Arc<InPass>,
    thread: Option<JoinHandle<()>>,
}

impl Batch {
    /// Starts the thread, and returns when `load` has loaded the engine there.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start<E: Send + 'static>(
        load: impl FnOnce() -> Result<Engine, E> + Send + 'static,
        tokenizer: Tokenizer,
        options: BatchOptions,
    ) -> Result<Self, StartError<E>> {
        let (commands, submissions) = unbounded();
        let (loaded, is_loaded) = bounded(1);
        let in_pass = Arc::new(InPass::default());
        let of_thread = Arc::clone(&in_pass);
        let body = move || {
            let engine = match catch_unwind(AssertUnwindSafe(load)) {
                Ok(Ok(engine)) => engine,
                Ok(Err(error)) => return drop(loaded.send(Err(StartError::Load(error)))),
                Err(_) => return drop(loaded.send(Err(StartError::Panicked))),
            };
            of_thread.set_interrupt(engine.interrupt());
            // The caller waits for it.
            let _ = loaded.send(Ok(()));
            Driver::new(engine, &tokenizer, options, submissions, &of_thread).run();
        };
        let thread = thread::Builder::new().name("flash-batch".to_owned()).spawn(body);
        let thread = thread.map_err(StartError::Thread)?;
        let batch = Self { commands: Some(commands), in_pass, thread: Some(thread) };
        is_loaded.recv().unwrap_or(Err(StartError::Panicked))?;
        Ok(batch)
    }

    /// Submits a request. Its answer begins when a context is free.
    pub fn submit(&self, request: Request) -> Answer {
        let (answer, submission) = Answer::new(request, Arc::clone(&self.in_pass));
        if let Some(commands) = &self.commands {
            // A thread that has stopped drops the submission, and the answer ends.
            let _ = commands.send(submission);
        }
        answer
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Without senders, the driver ends all answers and returns.
        self.commands = None;
        self.in_pass.stop();
        if let Some(thread) = self.thread.take() {
            // The driver catches the panics of passes, so `join` reports nothing else.
            let _ = thread.join();
        }
    }
}
