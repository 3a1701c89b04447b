//! The answer to a prompt while it is generated: from logits to text, token by token.

use std::time::{Duration, Instant};

use flash_text::{Detokenizer, StopMatcher, Tokenizer};

use super::SpeculationStats;
use super::generate::{FinishReason, GenerateOptions, Generation};
use crate::ModelError;
use crate::engine::sample::Sampler;

/// Samples tokens, decodes them to text, and decides when the answer ends.
#[derive(Debug)]
pub(super) struct Answer<'t> {
    tokenizer: &'t Tokenizer,
    sampler: Sampler,
    detokenizer: Detokenizer<'t>,
    stop: StopMatcher,
    /// All tokens so far, including the prompt.
    history: Vec<u32>,
    max_tokens: usize,
    ignore_eos: bool,
    generation: Generation,
    begin: Instant,
    first_token_at: Option<Instant>,
    /// Whether a stop string ended the text.
    is_stopped: bool,
}

/// The outcome of a token.
#[derive(Debug)]
pub(super) struct Step {
    /// Text that is certain now.
    pub text: String,
    /// The token to run next; none at the end of the answer.
    pub next: Option<u32>,
}

impl<'t> Answer<'t> {
    /// Begins an answer to `prompt`, in a context that holds the tokens `held`.
    ///
    /// # Errors
    /// The errors of [`Sampler::new`] and [`StopMatcher::new`].
    pub(super) fn new(
        tokenizer: &'t Tokenizer,
        held: &[u32],
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Self, ModelError> {
        let GenerateOptions { max_tokens, sampler, stop, ignore_eos, speculation: _ } = options.clone();
        let generation = Generation {
            text: String::new(),
            token_ids: Vec::new(),
            prompt_tokens: prompt.len(),
            finish_reason: FinishReason::Length,
            ttft: Duration::ZERO,
            decode: Duration::ZERO,
            speculation: SpeculationStats::default(),
        };
        Ok(Self {
            tokenizer,
            sampler: Sampler::new(sampler)?,
            detokenizer: Detokenizer::new(tokenizer),
            stop: StopMatcher::new(stop)?,
            history: [held, prompt].concat(),
            max_tokens,
            ignore_eos,
            generation,
            begin: Instant::now(),
            first_token_at: None,
            is_stopped: false,
        })
    }

    /// Whether no token is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.max_tokens == 0
    }

    /// Returns the most tokens that the answer can still have.
    pub(super) fn tokens_left(&self) -> usize {
        self.max_tokens - self.generation.token_ids.len()
    }

    /// Samples the next token from its logits.
    ///
    /// # Errors
    /// The errors of [`Sampler::sample`] and of decoding the token.
    pub(super) fn push(&mut self, logits: &mut [f32]) -> Result<Step, ModelError> {
        let token = self.sampler.sample(logits, &self.history)?;
        self.first_token_at.get_or_insert_with(Instant::now);
        self.generation.token_ids.push(token);
        if self.tokenizer.is_eos(token) && !self.ignore_eos {
            self.generation.finish_reason = FinishReason::Stop;
            return Ok(Step { text: String::new(), next: None });
        }
        self.history.push(token);
        let piece = self.detokenizer.push(token)?.unwrap_or_default();
        let outcome = self.stop.push(&piece);
        self.generation.text.push_str(&outcome.emit);
        if outcome.stopped {
            self.is_stopped = true;
            self.generation.finish_reason = FinishReason::Stop;
        }
        let is_end = outcome.stopped || self.generation.token_ids.len() == self.max_tokens;
        Ok(Step { text: outcome.emit, next: (!is_end).then_some(token) })
    }

    /// Ends the answer, and returns it with the last piece of its text. `was_interrupted` tells why it ended, unless it had
    /// ended by itself.
    ///
    /// # Errors
    /// The error of decoding the last tokens.
    pub(super) fn finish(self, was_interrupted: bool) -> Result<(Generation, String), ModelError> {
        let Self { detokenizer, mut stop, mut generation, begin, first_token_at, is_stopped, .. } = self;
        if was_interrupted {
            generation.finish_reason = FinishReason::Interrupted;
        }
        if let Some(first) = first_token_at {
            generation.ttft = first - begin;
            generation.decode = first.elapsed();
        }
        let mut rest = String::new();
        if !is_stopped {
            rest.push_str(&stop.push(&detokenizer.finish()?).emit);
            rest.push_str(&stop.finish());
        }
        generation.text.push_str(&rest);
        Ok((generation, rest))
    }
}
