//! What a sampler is told.

use crate::error::SampleError;

/// How tokens are drawn.
///
/// The order and the formulas are mlx-lm's (`generate_step`, `make_logits_processors` and
/// `make_sampler` of mlx-lm 0.32.2):
///
/// 1. **Repetition penalty** on the logits: each token among the last `repetition_window` of the
///    history, prompt included, has its logit multiplied by the penalty if negative, else divided.
/// 2. With a **temperature** of 0 the token with the largest logit, the first of equals. Otherwise
///    `p` is the softmax of the logits, at temperature 1, and each of the next three looks at what
///    the ones before it left, without scaling it up again:
/// 3. **top-p** keeps the most likely tokens until their mass reaches `top_p` of the whole: a token
///    stays if the mass of those above it is less than that. All that equal the last one stay too.
/// 4. **min-p** drops tokens less likely than `min_p` times the most likely one.
/// 5. **top-k** keeps the `top_k` most likely; of equals at the edge, those with the lowest ids.
/// 6. One is drawn with probability proportional to `p^(1/temperature)`.
///
/// Where mlx-lm rounds to the type of the logits, this computes in f32 with sums in f64, so a token
/// right at the edge of a filter may fall on the other side. A `top_k` of the vocabulary's size or
/// more keeps everything (mlx-lm refuses it). mlx-lm's XTC is not offered.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// 0 takes the most likely token; 1 draws from the model's own distribution; more is more random.
    pub temperature: f32,
    /// Draw from this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Draw from the most likely tokens that hold this part of the mass; 1 for all.
    pub top_p: f32,
    /// Draw from tokens at least this likely, next to the most likely one; 0 for all.
    pub min_p: f32,
    /// More than 1 makes recent tokens less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens are recent; 0 for all, as in mlx-lm.
    pub repetition_window: usize,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Default for SamplerConfig {
    /// mlx-lm's defaults: the most likely token, no filter, no penalty, a window of 20; seed 0.
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
    /// [`SampleError::Config`] for the first that is out of its range: `temperature` finite and not
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

    /// The part of the history that the repetition penalty sees.
    pub(super) fn window_of<'h>(&self, history: &'h [u32]) -> &'h [u32] {
        match self.repetition_window {
            0 => history,
            window => &history[history.len().saturating_sub(window)..],
        }
    }
}
