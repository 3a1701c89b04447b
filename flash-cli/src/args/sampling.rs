//! Flags of sampling.

use clap::Args;

use crate::sampling::{Seed, TopK};

/// Flags that control how tokens are sampled.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temp: f32,
    /// Sample from this many of the most likely tokens; 0 or -1 for all
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub(crate) top_k: TopK,
    /// Sample from the most likely tokens whose probabilities add up to this
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Sample from tokens whose probability is at least this fraction of the highest
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Penalize recent tokens; 1 for no penalty
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f32,
    /// Random seed; -1 for a different one each time
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub(crate) seed: Seed,
    /// Stop before this text; may be given more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
}
