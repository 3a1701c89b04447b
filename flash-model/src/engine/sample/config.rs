//! Configuration of a sampler.

use crate::error::SampleError;

/// Configuration of a sampler.
///
/// The order and the formulas are mlx-lm's (`generate_step`, `make_logits_processors` and
/// `make_sampler` of mlx-lm 0.32.2):
///
/// 1. **Repetition penalty** on the logits: each token among the last `repetition_window` of the
///    history, prompt included, has its logit multiplied by the penalty if negative, else divided.
/// 2. A **temperature** of 0 selects the token with the largest logit, the first one of equals. Otherwise
///    `p` is the softmax of the logits, at temperature 1, and each of the next three filters applies to the
///    tokens left by the filters before it, without renormalizing:
/// 3. **top-p** keeps the most likely tokens until their mass reaches `top_p` of the whole: a token
///    stays if the mass of the tokens above it is less than that. All tokens equal to the last one stay too.
/// 4. **min-p** drops tokens less likely than `min_p` times the most likely one.
/// 5. **top-k** keeps the `top_k` most likely tokens; of equals at the edge, those with the lowest ids.
/// 6. One token is sampled with probability proportional to `p^(1/temperature)`, by noise that is a function of seed,
///    position and token. mlx-lm draws from a sequence of random numbers.
///
/// Where mlx-lm rounds to the dtype of the logits, this computes in f32 with sums in f64, so a token
/// right at the edge of a filter may fall on the other side. A `top_k` of the vocabulary's size or
/// more keeps everything (mlx-lm rejects it). mlx-lm's XTC is not supported.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Temperature: 0 selects the most likely token, 1 samples the model's own distribution, higher values are more
    /// random.
    pub temperature: f32,
    /// Number of most likely tokens that are kept; 0 keeps all.
    pub top_k: usize,
    /// Probability mass of the most likely tokens that are kept; 1 keeps all.
    pub top_p: f32,
    /// Minimum probability relative to the most likely token; 0 keeps all tokens.
    pub min_p: f32,
    /// Penalty on recent tokens: more than 1 makes them less likely, 1 changes nothing.
    pub repetition_penalty: f32,
    /// Number of most recent tokens that the penalty applies to; 0 for all, as in mlx-lm.
    pub repetition_window: usize,
    /// Seed of the noise.
    pub seed: u64,
}

impl Default for SamplerConfig {
    /// Returns mlx-lm's defaults: greedy sampling, no filters, no penalty, a window of 20, and seed 0.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 20,
            seed: 0,
        }
    }
}

impl SamplerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`SampleError::Config`] for the first setting that is out of range: `temperature` finite and not
    /// negative, `top_p` in (0, 1], `min_p` in [0, 1], `repetition_penalty` finite and positive.
    pub fn validate(&self) -> Result<(), SampleError> {
        let check = |is_valid: bool, field, value, expected| {
            if is_valid { Ok(()) } else { Err(SampleError::Config { field, value, expected }) }
        };
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        check(temperature.is_finite() && temperature >= 0.0, "temperature", temperature, "0 or more")?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "more than 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min_p", min_p, "from 0 to 1")?;
        check(
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
            "repetition_penalty",
            repetition_penalty,
            "more than 0",
        )
    }

    /// Returns the part of the history that the repetition penalty applies to.
    pub(super) fn window_of<'h>(&self, history: &'h [u32]) -> &'h [u32] {
        match self.repetition_window {
            0 => history,
            window => &history[history.len().saturating_sub(window)..],
        }
    }
}
