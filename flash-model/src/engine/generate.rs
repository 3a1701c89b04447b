//! Text generation, token by token.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::ModelError;
use crate::engine::Engine;
use crate::engine::sample::{Sampler, SamplerConfig};
use flash_text::{Detokenizer, StopMatcher, Tokenizer};

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
    let begin = Instant::now();
    let mut sampler = Sampler::new(options.sampler.clone())?;
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut stop = StopMatcher::new(options.stop.clone())?;
    let mut history = [engine.held(), prompt].concat();
    let mut generation = Generation {
        text: String::new(),
        token_ids: Vec::new(),
        prompt_tokens: prompt.len(),
        finish_reason: FinishReason::Length,
        ttft: Duration::ZERO,
        decode: Duration::ZERO,
    };
    let mut emit = |text: &mut String, piece: &str| {
        if !piece.is_empty() {
            text.push_str(piece);
            on_text(piece);
        }
    };
    let interrupt = engine.interrupt();
    let (mut first_token_at, mut stopped) = (None, false);
    let mut logits = Vec::new();
    let mut next = engine.forward_into(prompt, &mut logits);
    while generation.token_ids.len() < options.max_tokens {
        match next {
            Ok(()) => {}
            Err(ModelError::Interrupted) => {
                generation.finish_reason = FinishReason::Interrupted;
                break;
            }
            Err(error) => return Err(error),
        }
        let token = sampler.sample(&mut logits, &history)?;
        first_token_at.get_or_insert_with(Instant::now);
        generation.token_ids.push(token);
        if tokenizer.is_eos(token) && !options.ignore_eos {
            generation.finish_reason = FinishReason::Stop;
            break;
        }
        history.push(token);
        let piece = detokenizer.push(token)?.unwrap_or_default();
        let outcome = stop.push(&piece);
        emit(&mut generation.text, &outcome.emit);
        if outcome.stopped {
            stopped = true;
            generation.finish_reason = FinishReason::Stop;
            break;
        }
        if interrupt.load(Ordering::Relaxed) {
            generation.finish_reason = FinishReason::Interrupted;
            break;
        }
        if generation.token_ids.len() == options.max_tokens || engine.held_tokens() == engine.context_tokens()
        {
            break;
        }
        next = engine.forward_into(&[token], &mut logits);
    }
    if options.max_tokens == 0 {
        match next {
            Err(ModelError::Interrupted) => generation.finish_reason = FinishReason::Interrupted,
            passed => passed?,
        }
    }
    if let Some(first) = first_token_at {
        generation.ttft = first - begin;
        generation.decode = first.elapsed();
    }
    if !stopped {
        let rest = stop.push(&detokenizer.finish()?);
        emit(&mut generation.text, &rest.emit);
        emit(&mut generation.text, &stop.finish());
    }
    Ok(generation)
}
