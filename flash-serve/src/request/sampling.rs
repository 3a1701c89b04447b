//! Sampling settings.

use std::collections::BTreeMap;

/// Sampling settings of a request. What is `None` has the model's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// Temperature; 0 is greedy.
    pub temperature: Option<f64>,
    /// Smallest set of most likely tokens with at least this probability.
    pub top_p: Option<f64>,
    /// Number of most likely tokens; 0 for all.
    pub top_k: Option<usize>,
    /// Least probability, relative to the most likely token's.
    pub min_p: Option<f64>,
    /// Divisor of positive logits, and factor of negative ones, of tokens that occurred before; 1 for none.
    pub repetition_penalty: Option<f64>,
    /// Subtracted from the logits of tokens that were generated before.
    pub presence_penalty: Option<f64>,
    /// Subtracted from the logits of tokens for each time that they were generated before.
    pub frequency_penalty: Option<f64>,
    /// Number of recent tokens that the repetition penalty considers; `None` for the model's default.
    pub repetition_window: Option<usize>,
    /// Added to the logits of tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seed of random numbers.
    pub seed: Option<u64>,
}
