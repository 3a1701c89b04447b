//! Flags of sampling.

use clap::{Args, ValueEnum};
use flash_model::Speculation;

use crate::sampling::{Seed, TopK};

/// Flags that control how tokens are sampled.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 always takes the most likely token [default: the model's in a chat, else 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    /// Sample from this many of the most likely tokens; 0 or -1 for all [default: the model's in a chat, else all]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_k: Option<TopK>,
    /// Sample from the most likely tokens whose probabilities add up to this [default: the model's in a chat, else 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Sample from tokens whose probability is at least this fraction of the highest [default: the model's in a chat,
    /// else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Penalize recent tokens; 1 for no penalty [default: the model's in a chat, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Random seed; -1 for a different one each time, which is reported
    #[arg(long, value_name = "N", default_value = "-1", allow_negative_numbers = true)]
    pub(crate) seed: Seed,
    /// Guess the next tokens while that saves time (auto), always, or never (off): with native kernels, the output is the
    /// same
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) speculate: SpeculateArg,
    /// Stop before this text; may be given more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
}

/// Value of `--speculate`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SpeculateArg {
    Auto,
    Always,
    Off,
}

impl SpeculateArg {
    pub(crate) fn speculation(self) -> Speculation {
        match self {
            Self::Auto => Speculation::Auto,
            Self::Always => Speculation::Always,
            Self::Off => Speculation::Off,
        }
    }
}
