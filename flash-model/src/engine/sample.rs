//! Sampling of the next token from logits, by mlx-lm's rules, which [`SamplerConfig`] describes.

mod config;
mod exp;
mod filter;
mod ln;
mod noise;

pub use crate::error::SampleError;
pub use config::SamplerConfig;

use exp::exp;
use ln::ln;
use noise::Noise;

/// Tokens whose weights are computed together.
const BLOCK_TOKENS: usize = 16;

/// Samples tokens from logits.
///
/// A sample is a function of the configuration, the logits, and the history, whose length is the *position* of the
/// sample in its sequence. It does not depend on other samples, so tokens can be sampled again, out of order, or ahead
/// of time: a guessed token is right if it is the one that is sampled at its position. Samples are the same on every
/// machine, whatever its processor or mathematical library. Different samples for the same seed are a breaking change
/// of this crate.
///
/// Above temperature 0, the sample is the candidate with the largest `logit / temperature + g`, where `g = -ln(-ln v)`
/// is Gumbel noise and `v` a uniform random number of seed, position and token. Each candidate is the largest with its
/// probability (the Gumbel-max trick, see Maddison, Tarlow and Minka, "A* sampling", 2014). In the implementation each
/// candidate has the time `-ln v / weight`, and the earliest one wins: the same order with one logarithm less. Random
/// numbers have 52 bits, so tokens with a probability below 2^-53 are not sampled in due proportion.
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
    /// Creates a sampler.
    ///
    /// # Errors
    /// [`SampleError::Config`] if the configuration is not [valid](SamplerConfig::validate).
    pub fn new(config: SamplerConfig) -> Result<Self, SampleError> {
        config.validate()?;
        Ok(Self { config, scratch: Vec::new(), candidates: Vec::new() })
    }

    /// Samples the next token. `logits` has one element per token of the vocabulary, and the repetition penalty is
    /// applied to it in place; `history` is all tokens so far, including the prompt.
    ///
    /// # Errors
    /// The errors of [`candidates`](Self::candidates).
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32, SampleError> {
        self.candidates(logits, history)?;
        Ok(match self.candidates.as_slice() {
            [only] => only.token,
            candidates => earliest(candidates, Noise::new(self.config.seed, history.len())),
        })
    }

    /// Returns the tokens that [`sample`](Self::sample) chooses from, by ascending id.
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
        // In blocks, and without branches on single tokens, since without filters this is most of the work.
        let mut weights = [0.0; BLOCK_TOKENS];
        let mut kept = [Candidate { token: 0, weight: 0.0 }; BLOCK_TOKENS];
        for (block, logits) in (0u32..).zip(logits.chunks(BLOCK_TOKENS)) {
            if logits.iter().all(|&logit| logit < floor) {
                continue;
            }
            for (weight, &logit) in weights.iter_mut().zip(logits) {
                *weight = exp((logit - top) / config.temperature);
            }
            let mut n_kept = 0;
            let tokens = block * BLOCK_TOKENS as u32..;
            for ((token, &logit), &weight) in tokens.zip(logits).zip(&weights) {
                let is_edge = logit == floor && n_at_edge > 0;
                n_at_edge -= usize::from(is_edge);
                let is_likely = config.min_p == 0.0 || exp(logit - top) >= config.min_p;
                kept[n_kept] = Candidate { token, weight };
                n_kept += usize::from((logit > floor || is_edge) && is_likely && weight > 0.0);
            }
            self.candidates.extend_from_slice(&kept[..n_kept]);
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

/// Returns the token of the candidate with the earliest `-ln(1 - uniform) / weight`, the first one of equals. There is
/// always at least one candidate: the most likely token passes every filter.
fn earliest(candidates: &[Candidate], noise: Noise) -> u32 {
    let mut winner = candidates[0].token;
    let mut earliest = f64::INFINITY;
    let (mut pair, mut uniforms) = (winner / 2, noise.uniforms(winner / 2));
    for &Candidate { token, weight } in candidates {
        if token / 2 != pair {
            pair = token / 2;
            uniforms = noise.uniforms(pair);
        }
        let uniform = uniforms[token as usize % 2];
        let weight = f64::from(weight);
        // As -ln(1 - u) > u, few candidates need the logarithm.
        if uniform < earliest * weight {
            let time = -ln(1.0 - uniform) / weight;
            if time < earliest {
                (winner, earliest) = (token, time);
            }
        }
    }
    winner
}
