//! Sampling of the next token from logits, by mlx-lm's rules, which [`SamplerConfig`] describes.

mod config;
mod exp;
mod filter;
mod rng;

pub use crate::error::SampleError;
pub use config::SamplerConfig;

use exp::exp;
use rng::Draws;

/// Samples tokens from logits.
///
/// Samples depend only on the configuration, the logits and the order of calls, and are the same on every machine,
/// whatever its processor or mathematical library. Different samples for the same seed are a breaking change of this
/// crate.
///
/// ```
/// # use flash_model::sample::{Sampler, SamplerConfig};
/// let config = SamplerConfig { temperature: 0.7, top_p: 0.9, seed: 1, ..SamplerConfig::default() };
/// let mut sampler = Sampler::new(config)?;
/// let mut history = vec![5, 0];
/// history.push(sampler.sample(&mut [0.1, -3.0, 4.0, -8.0], &history)?);
/// assert_eq!(history, [5, 0, 2]);
/// # Ok::<(), flash_model::sample::SampleError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    draws: Draws,
    scratch: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token that passed the filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// Probability relative to the most likely token.
    pub weight: f32,
}

impl Sampler {
    /// Creates a sampler whose random numbers start at the seed.
    ///
    /// # Errors
    /// [`SampleError::Config`] if the configuration is not [valid](SamplerConfig::validate).
    pub fn new(config: SamplerConfig) -> Result<Self, SampleError> {
        config.validate()?;
        let draws = Draws::new(config.seed);
        Ok(Self { config, draws, scratch: Vec::new(), candidates: Vec::new() })
    }

    /// Samples the next token. `logits` has one element per token of the vocabulary, and the repetition penalty is
    /// applied to it in place; `history` is all tokens so far, including the prompt.
    ///
    /// Consumes no random number at temperature 0 or on errors, otherwise exactly one.
    ///
    /// # Errors
    /// The errors of [`candidates`](Self::candidates).
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32, SampleError> {
        self.candidates(logits, history)?;
        let chosen = match self.candidates.as_slice() {
            [only] if self.config.temperature == 0.0 => *only,
            candidates => draw(candidates, self.draws.next_unit()),
        };
        Ok(chosen.token)
    }

    /// Returns the tokens that [`sample`](Self::sample) chooses from, by ascending id. Consumes no random number.
    ///
    /// # Errors
    /// [`SampleError::NoLogits`] without logits, [`SampleError::BadLogit`] if one is NaN or positive infinity,
    /// [`SampleError::AllMasked`] if all are negative infinity, and [`SampleError::HistoryToken`] if the repetition
    /// penalty applies to a token without a logit.
    pub fn candidates(&mut self, logits: &mut [f32], history: &[u32]) -> Result<&[Candidate], SampleError> {
        let config = &self.config;
        self.candidates.clear();
        if config.repetition_penalty != 1.0 {
            filter::penalize(logits, config.window_of(history), config.repetition_penalty)?;
        }
        let (token, top) = largest(logits)?;
        if config.temperature == 0.0 {
            self.candidates.push(Candidate { token, weight: 1.0 });
            return Ok(&self.candidates);
        }
        let mut floor = f32::NEG_INFINITY;
        if config.top_p < 1.0 {
            floor = floor.max(filter::top_p_floor(logits, top, config.top_p, &mut self.scratch));
        }
        if config.min_p > 0.0 {
            floor = floor.max(filter::min_p_floor(top, config.min_p));
        }
        let mut n_at_edge = usize::MAX;
        if config.top_k > 0 && config.top_k < logits.len() {
            let edge = filter::top_k_edge(logits, config.top_k, &mut self.scratch);
            if edge.logit >= floor {
                (floor, n_at_edge) = (edge.logit, edge.n_kept);
            }
        }
        for (token, &logit) in (0u32..).zip(&*logits) {
            if logit < floor {
                continue;
            }
            if logit == floor {
                if n_at_edge == 0 {
                    continue;
                }
                n_at_edge -= 1;
            }
            let weight = exp((logit - top) / config.temperature);
            let is_likely = config.min_p == 0.0 || exp(logit - top) >= config.min_p;
            if is_likely && weight > 0.0 {
                self.candidates.push(Candidate { token, weight });
            }
        }
        Ok(&self.candidates)
    }
}

/// Returns the largest logit and its token, the first one of equals.
fn largest(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    let n_logits = logits.len();
    // Vectorized, as this is most of the work of greedy sampling: finds the maximum first, then its position.
    let (blocks, rest) = logits.as_chunks::<16>();
    let mut largest = [f32::NEG_INFINITY; 16];
    let mut n_good = 0;
    for block in blocks {
        for (largest, &logit) in largest.iter_mut().zip(block) {
            *largest = if logit > *largest { logit } else { *largest };
        }
        n_good += block.iter().map(|&logit| usize::from(logit < f32::INFINITY)).sum::<usize>();
    }
    n_good += rest.iter().filter(|&&logit| logit < f32::INFINITY).count();
    if n_good < n_logits {
        let mut all = (0u32..).zip(logits);
        if let Some((token, &logit)) = all.find(|(_, logit)| logit.is_nan() || **logit == f32::INFINITY) {
            return Err(SampleError::BadLogit { token, logit });
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    match logits.iter().position(|&logit| logit == largest) {
        None => Err(SampleError::NoLogits),
        Some(_) if largest == f32::NEG_INFINITY => Err(SampleError::AllMasked { n_logits }),
        Some(token) => Ok((token as u32, largest)),
    }
}

/// Returns the candidate whose share of the unit interval contains `unit`. There is always at least one: the most
/// likely token passes every filter.
fn draw(candidates: &[Candidate], unit: f64) -> Candidate {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let target = unit * total;
    let mut below = 0.0;
    let mut last = candidates[0];
    for &candidate in candidates {
        below += f64::from(candidate.weight);
        last = candidate;
        if target < below {
            break;
        }
    }
    last
}
