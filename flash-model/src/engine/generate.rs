//! From a prompt to text, token by token.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::ModelError;
use crate::engine::Engine;
use crate::engine::sample::{Sampler, SamplerConfig};
use flash_text::{Detokenizer, StopMatcher, Tokenizer};

/// How text is generated: [`new`](Self::new), and then fields that differ.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampler: SamplerConfig,
    /// Texts that end the generation; they are not a part of it.
    pub stop: Vec<String>,
    /// Go on behind a token that ends an answer, so that a measurement has the length it asks for.
    pub ignore_eos: bool,
}

impl GenerateOptions {
    /// At most so many tokens, the likeliest each time.
    pub fn new(max_tokens: usize) -> Self {
        Self { max_tokens, ..Self::default() }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model said so, or a stop text came.
    Stop,
    /// The most tokens, or the end of the context, were reached.
    Length,
    /// The caller asked to stop.
    Interrupted,
}

impl FinishReason {
    /// Its name, as in the APIs that people know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What was generated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Generation {
    /// The text, without the stop text that ended it.
    pub text: String,
    /// Its tokens, the one that ended it included.
    pub token_ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// From the call to the first token.
    pub ttft: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Generation {
    /// Tokens per second after the first one; none if there is only one.
    pub fn decode_tok_per_s(&self) -> Option<f64> {
        let tokens = self.token_ids.len().checked_sub(1).filter(|&tokens| tokens > 0)?;
        Some(tokens as f64 / self.decode.as_secs_f64())
    }
}

/// Continues `prompt`, behind what the engine's cache holds, and hands the text to `on_text` as it comes.
///
/// The cache then holds the prompt and all tokens but the last one, which no pass has seen.
///
/// # Errors
/// [`ModelError`]. Text that was handed on before is right; the engine can go on with another prompt.
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
