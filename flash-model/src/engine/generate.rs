//! Text generation, token by token.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flash_text::Tokenizer;

use super::answer::{Answer, Step};
use super::speculate::Speculator;
use super::{Logits, Speculation, SpeculationStats};
use crate::ModelError;
use crate::engine::Engine;
use crate::engine::sample::SamplerConfig;

/// Options of text generation. Create with [`new`](Self::new), then set fields.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Maximum number of generated tokens.
    pub max_tokens: usize,
    /// Configuration of the sampler.
    pub sampler: SamplerConfig,
    /// Stop strings, which end the generation and are left out of its text.
    pub stop: Vec<String>,
    /// Continue after end-of-sequence tokens, so that benchmarks generate exactly `max_tokens` tokens.
    pub ignore_eos: bool,
    /// Whether tokens are drafted, if [memory is planned](crate::Workload::tentative_rows) for it.
    pub speculation: Speculation,
}

impl GenerateOptions {
    /// Creates options for at most `max_tokens` tokens with greedy sampling.
    pub fn new(max_tokens: usize) -> Self {
        Self { max_tokens, ..Self::default() }
    }
}

/// The reason why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model generated an end-of-sequence token, or the text a stop string.
    Stop,
    /// `max_tokens` or the context length was reached.
    Length,
    /// The caller interrupted the generation.
    Interrupted,
}

impl FinishReason {
    /// Returns the reason's name: `stop` or `length`, as `finish_reason` in common APIs, or `interrupted`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The result of a generation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Generation {
    /// The generated text, without the stop string that ended it.
    pub text: String,
    /// The generated tokens, including the one that ended the generation.
    pub token_ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The reason why the generation ended.
    pub finish_reason: FinishReason,
    /// Time to first token, from the call of `generate`.
    pub ttft: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// Passes and drafts.
    pub speculation: SpeculationStats,
}

impl Generation {
    /// Returns the decoding speed in tokens per second, without the first token; `None` for a single token.
    pub fn decode_tok_per_s(&self) -> Option<f64> {
        let tokens = self.token_ids.len().checked_sub(1).filter(|&tokens| tokens > 0)?;
        Some(tokens as f64 / self.decode.as_secs_f64())
    }
}

/// Appends `prompt` to the engine's context, generates text, and passes it to `on_text` piece by piece.
///
/// Afterwards the context has the prompt and all generated tokens but the last, which has not been run through the
/// model.
///
/// # Errors
/// [`ModelError`]. Text passed to `on_text` before is valid; the engine remains usable.
pub fn generate(
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_text: impl FnMut(&str),
) -> Result<Generation, ModelError> {
    let mut answer = Answer::new(tokenizer, engine.held(), prompt, options)?;
    let mut speculator = Speculator::new(
        options.speculation,
        engine.draft_rows(options.speculation),
        engine.context_tokens(),
        [engine.held(), prompt],
    );
    let mut emit = |text: &str| {
        if !text.is_empty() {
            on_text(text);
        }
    };
    let interrupt = engine.interrupt();
    let mut logits = Logits::default();
    // The tokens of the next pass: the prompt, then the next token of the answer with a draft.
    let mut tokens = prompt.to_vec();
    let mut passed = engine.pass_own(&tokens, false, &mut logits);
    let was_interrupted = loop {
        match passed {
            Ok(()) => {}
            Err(ModelError::Interrupted) => break true,
            Err(error) => return Err(error),
        }
        if answer.is_empty() {
            break false;
        }
        let is_draft = engine.own().tentative_tokens() > 0;
        let checked = check(&mut answer, &mut speculator, &tokens, &mut logits, &interrupt, &mut emit);
        if is_draft {
            speculator.accept(checked.n_kept - 1);
            engine.own().commit(checked.n_kept)?;
        }
        let Some(token) = checked.next? else { break false };
        if interrupt.load(Ordering::Relaxed) {
            break true;
        }
        if engine.held_tokens() == engine.context_tokens() {
            break false;
        }
        tokens.clear();
        tokens.push(token);
        let room = engine.own().tentative_room().min(engine.max_tentative_rows()).min(answer.tokens_left());
        speculator.draft(|| engine.pass_estimate(), room.saturating_sub(1), &mut tokens);
        passed = engine.pass_own(&tokens, tokens.len() > 1, &mut logits);
        if tokens.len() > 1 && passed.as_ref().is_err_and(|error| !matches!(error, ModelError::Interrupted)) {
            // A drafted token may be the cause, as one whose keys overflow.
            tokens.truncate(1);
            speculator.accept(0);
            passed = engine.pass_own(&tokens, false, &mut logits);
        }
    };
    let (mut generation, rest) = answer.finish(was_interrupted)?;
    generation.speculation = speculator.stats();
    emit(&rest);
    Ok(generation)
}

/// The outcome of checking the rows of a pass.
struct Checked {
    /// Tokens of the pass that belong to the answer.
    n_kept: usize,
    /// The token to run next; none at the end of the answer.
    next: Result<Option<u32>, ModelError>,
}

/// Samples the tokens after those of a pass, as long as they are the ones that were drafted.
fn check(
    answer: &mut Answer<'_>,
    speculator: &mut Speculator,
    tokens: &[u32],
    logits: &mut Logits,
    interrupt: &AtomicBool,
    emit: &mut impl FnMut(&str),
) -> Checked {
    let n_rows = logits.of(0).len();
    let first = tokens.len() - n_rows;
    for row_idx in 0..n_rows {
        let n_kept = first + row_idx + 1;
        let row = logits.row_mut(0, row_idx);
        speculator.learn_logits(tokens[n_kept - 1], row);
        let Step { text, next } = match answer.push(row) {
            Ok(step) => step,
            Err(error) => return Checked { n_kept, next: Err(error) },
        };
        emit(&text);
        if let Some(token) = next {
            speculator.learn_sampled(&[token]);
            if tokens.get(n_kept) == Some(&token) && !interrupt.load(Ordering::Relaxed) {
                continue;
            }
        }
        return Checked { n_kept, next: Ok(next) };
    }
    unreachable!("no token is drafted after the last")
}
