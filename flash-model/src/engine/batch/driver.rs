//! The loop of a batch: takes requests, composes passes, and hands out tokens.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use flash_sched::{PassLimits, rows};
use flash_text::Tokenizer;
use parking_lot::Mutex;

use super::BatchOptions;
use super::request::{BatchError, Event, Submission, UNREAD_PIECES};
use crate::ModelError;
use crate::engine::answer::{Answer, Step};
use crate::engine::{Context, Engine, Generation, Logits, Segment};

/// Time between two looks at answers that are all paused.
const PAUSE: Duration = Duration::from_millis(2);

/// The requests of the pass in progress, shared with the threads that may cancel them.
#[derive(Debug, Default)]
pub(super) struct InPass {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The flag that ends a pass.
    interrupt: Option<Arc<AtomicBool>>,
    /// Whether each request of the pass is cancelled; none between passes.
    requests: Vec<Arc<AtomicBool>>,
    is_stopped: bool,
}

impl State {
    /// Whether nobody waits for the pass in progress.
    fn is_useless(&self) -> bool {
        !self.requests.is_empty() && self.requests.iter().all(|request| request.load(Ordering::Relaxed))
    }
}

impl InPass {
    pub(super) fn set_interrupt(&self, flag: Arc<AtomicBool>) {
        self.state.lock().interrupt = Some(flag);
    }

    /// Interrupts the pass in progress if all of its requests are cancelled.
    pub(super) fn interrupt_if_cancelled(&self) {
        let state = &*self.state.lock();
        if let (true, Some(flag)) = (state.is_useless(), &state.interrupt) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Interrupts the pass in progress, and all later ones.
    pub(super) fn stop(&self) {
        let state = &mut *self.state.lock();
        state.is_stopped = true;
        if let Some(flag) = &state.interrupt {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Begins a pass of some requests.
    fn begin(&self, requests: Vec<Arc<AtomicBool>>) {
        let state = &mut *self.state.lock();
        state.requests = requests;
        if let Some(flag) = &state.interrupt {
            // They may have been cancelled since the driver looked.
            flag.store(state.is_stopped || state.is_useless(), Ordering::Relaxed);
        }
    }

    fn end(&self) {
        self.state.lock().requests.clear();
    }
}

/// A request that is being answered.
struct Active<'t> {
    context: Context,
    prompt: Vec<u32>,
    answer: Answer<'t>,
    /// The token to run next; none before the prompt has run.
    next: Option<u32>,
    events: Sender<Event>,
    is_cancelled: Arc<AtomicBool>,
}

pub(super) struct Driver<'t> {
    engine: Engine,
    tokenizer: &'t Tokenizer,
    limits: PassLimits,
    submissions: Receiver<Submission>,
    in_pass: &'t InPass,
    /// Oldest first, as are the active ones.
    waiting: VecDeque<Submission>,
    active: Vec<Active<'t>>,
    logits: Logits,
}

impl<'t> Driver<'t> {
    pub(super) fn new(
        engine: Engine,
        tokenizer: &'t Tokenizer,
        BatchOptions { max_pass }: BatchOptions,
        submissions: Receiver<Submission>,
        in_pass: &'t InPass,
    ) -> Self {
        Self {
            limits: PassLimits { max_rows: engine.max_rows(), max_pass },
            engine,
            tokenizer,
            submissions,
            in_pass,
            waiting: VecDeque::new(),
            active: Vec::new(),
            logits: Logits::default(),
        }
    }

    /// Answers requests until the batch is dropped.
    pub(super) fn run(mut self) {
        while self.receive() {
            self.drop_cancelled();
            self.activate();
            if self.active.is_empty() {
                continue;
            }
            let rows = self.compose();
            if rows.iter().all(|n_rows| *n_rows == 0) {
                // All readers are slow.
                std::thread::sleep(PAUSE);
                continue;
            }
            if let Err(error) = self.pass(&rows) {
                self.active.drain(..).for_each(|active| active.fail(error.clone()));
                return;
            }
        }
    }

    /// Takes the requests that have come, and waits for one if there is nothing else to do. Returns false once the batch is
    /// dropped: the receivers of answers then find that it has stopped.
    fn receive(&mut self) -> bool {
        if self.active.is_empty() && self.waiting.is_empty() {
            match self.submissions.recv() {
                Ok(submission) => self.waiting.push_back(submission),
                Err(_) => return false,
            }
        }
        loop {
            match self.submissions.try_recv() {
                Ok(submission) => self.waiting.push_back(submission),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Ends requests whose answers nobody wants.
    fn drop_cancelled(&mut self) {
        let is_cancelled = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let (cancelled, waiting) =
            self.waiting.drain(..).partition::<VecDeque<_>, _>(|waiting| is_cancelled(&waiting.is_cancelled));
        self.waiting = waiting;
        for Submission { request, events, .. } in cancelled {
            let answer = Answer::new(self.tokenizer, &[], &request.prompt, &request.options);
            let end = answer.and_then(|answer| answer.finish(true));
            send_end(&events, end.map(|(generation, _)| Box::new(generation)).map_err(BatchError::from));
        }
        for active in self.active.extract_if(.., |active| is_cancelled(&active.is_cancelled)) {
            active.end(true);
        }
    }

    /// Gives contexts to waiting requests.
    fn activate(&mut self) {
        while self.active.len() < self.engine.n_contexts()
            && let Some(Submission { request, events, is_cancelled }) = self.waiting.pop_front()
        {
            let context = self.engine.new_context();
            let checked = self.engine.check(&context, &request.prompt);
            let answer =
                checked.and_then(|()| Answer::new(self.tokenizer, &[], &request.prompt, &request.options));
            match answer {
                Ok(answer) => {
                    let prompt = request.prompt;
                    self.active.push(Active { context, prompt, answer, next: None, events, is_cancelled });
                }
                Err(error) => send_end(&events, Err(error.into())),
            }
        }
    }

    /// Returns the rows of each active request in the next pass.
    fn compose(&self) -> Vec<usize> {
        let n_decoding =
            self.active.iter().filter(|active| active.is_decoding() && active.can_send()).count();
        let prompts: Vec<usize> =
            self.active.iter().filter(|active| !active.is_decoding()).map(Active::prompt_left).collect();
        let of_prompts = rows::allot(&self.engine.pass_estimate(), self.limits, n_decoding, &prompts);
        let mut of_prompts = of_prompts.into_iter();
        let rows = self.active.iter().map(|active| match active.is_decoding() {
            true => usize::from(active.can_send()),
            false => of_prompts.next().unwrap_or(0),
        });
        rows.collect()
    }

    /// Runs a pass, and hands out its tokens.
    ///
    /// # Errors
    /// [`BatchError::Panicked`]; the engine is then unusable.
    fn pass(&mut self, rows: &[usize]) -> Result<(), BatchError> {
        let Self { engine, active, logits, in_pass, .. } = self;
        let is_part = |rows: &usize| *rows > 0;
        let parts: Vec<usize> = (0..rows.len()).filter(|idx| is_part(&rows[*idx])).collect();
        in_pass.begin(parts.iter().map(|idx| Arc::clone(&active[*idx].is_cancelled)).collect());
        let mut segments: Vec<Segment<'_>> = active
            .iter_mut()
            .zip(rows)
            .filter(|(_, rows)| is_part(rows))
            .map(|(active, rows)| active.segment(*rows))
            .collect();
        let outcome = catch_unwind(AssertUnwindSafe(|| engine.pass(&mut segments, logits)));
        drop(segments);
        in_pass.end();
        let outcomes = match outcome {
            Err(panic) => return Err(BatchError::Panicked { message: message(&*panic) }),
            // All were cancelled, and end before the next pass.
            Ok(Err(ModelError::Interrupted)) => return Ok(()),
            Ok(Err(error)) => {
                let error = BatchError::from(error);
                parts.iter().rev().for_each(|idx| active.remove(*idx).fail(error.clone()));
                return Ok(());
            }
            Ok(Ok(outcomes)) => outcomes,
        };
        let mut ended = Vec::new();
        for (segment_idx, (idx, outcome)) in parts.iter().zip(outcomes).enumerate() {
            let step = outcome.and_then(|()| active[*idx].step(logits.last_mut(segment_idx)));
            match step {
                Ok(false) => {}
                Ok(true) => ended.push((*idx, None)),
                Err(error) => ended.push((*idx, Some(error))),
            }
        }
        for (idx, error) in ended.into_iter().rev() {
            let active = active.remove(idx);
            match error {
                Some(error) => active.fail(error.into()),
                None => active.end(false),
            }
        }
        Ok(())
    }
}

impl Active<'_> {
    fn is_decoding(&self) -> bool {
        self.next.is_some()
    }

    /// Whether the reader of the answer keeps up.
    fn can_send(&self) -> bool {
        self.events.len() < UNREAD_PIECES
    }

    /// Tokens of the prompt that have not run.
    fn prompt_left(&self) -> usize {
        self.prompt.len() - self.context.held_tokens()
    }

    /// Returns the next token, or the next `n_rows` of the prompt.
    fn segment(&mut self, n_rows: usize) -> Segment<'_> {
        let Self { context, prompt, next, .. } = self;
        match next {
            Some(token) => Segment::new(context, std::slice::from_ref(token)),
            None => {
                let start = context.held_tokens();
                let end = start + n_rows;
                let n_logits = usize::from(end == prompt.len());
                Segment { n_logits, ..Segment::new(context, &prompt[start..end]) }
            }
        }
    }

    /// Takes the logits of a pass, none if it ended within the prompt. Returns whether the answer is complete.
    fn step(&mut self, logits: Option<&mut [f32]>) -> Result<bool, ModelError> {
        let Some(logits) = logits else { return Ok(false) };
        if self.answer.is_empty() {
            return Ok(true);
        }
        let Step { text, next } = self.answer.push(logits)?;
        if !text.is_empty() {
            // Whoever no longer listens has cancelled.
            let _ = self.events.send(Event::Text(text));
        }
        self.next = next;
        Ok(next.is_none() || self.context.held_tokens() == self.context.max_tokens())
    }

    /// Ends the answer, and gives the context back.
    fn end(self, was_cancelled: bool) {
        let Self { context, answer, events, .. } = self;
        drop(context);
        match answer.finish(was_cancelled) {
            Ok((generation, rest)) => {
                if !rest.is_empty() {
                    let _ = events.send(Event::Text(rest));
                }
                send_end(&events, Ok(Box::new(generation)));
            }
            Err(error) => send_end(&events, Err(error.into())),
        }
    }

    fn fail(self, error: BatchError) {
        send_end(&self.events, Err(error));
    }
}

/// Ends an answer; whoever no longer listens does not miss it.
fn send_end(events: &Sender<Event>, end: Result<Box<Generation>, BatchError>) {
    let _ = events.send(Event::End(end));
}

/// Returns the message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "of unknown reason".to_owned())
}
