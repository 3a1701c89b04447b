//! Sampling settings: flags, with the conventions of other programs, and the defaults of a model.

use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use flash_io::{deserialize_naming_fields, parse_python_json};
use flash_model::sample::SamplerConfig;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::output::note;

/// The file with a model's sampling defaults.
const GENERATION_CONFIG: &str = "generation_config.json";

/// Settings of that file that change how tokens are drawn and are not supported, with the value that changes nothing.
const UNSUPPORTED: [(&str, f64); 10] = [
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("top_h", 1.0),
    ("penalty_alpha", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("diversity_penalty", 0.0),
    ("num_beams", 1.0),
    ("guidance_scale", 1.0),
];

/// Why the value of a sampling flag is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SamplingError {
    #[error("the seed must be a non-negative integer, or -1 for a different one each time")]
    Seed,
    #[error("must be a number of tokens, or 0 or -1 for all")]
    TopK,
}

/// Value of `--seed`: a number, or -1 for a different one each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seed {
    Random,
    Fixed(u64),
}

impl Seed {
    /// Returns the seed. A random one has 32 bits, short enough to type again.
    pub(crate) fn draw(self) -> u64 {
        match self {
            Self::Random => u64::from(fastrand::u32(..)),
            Self::Fixed(seed) => seed,
        }
    }
}

impl FromStr for Seed {
    type Err = SamplingError;

    fn from_str(given: &str) -> Result<Self, SamplingError> {
        if given == "-1" {
            return Ok(Self::Random);
        }
        given.parse().map(Self::Fixed).map_err(|_| SamplingError::Seed)
    }
}

/// Value of `--top-k`: a number of tokens, or 0 or -1 for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopK(pub(crate) usize);

impl FromStr for TopK {
    type Err = SamplingError;

    fn from_str(given: &str) -> Result<Self, SamplingError> {
        if given == "-1" {
            return Ok(Self(0));
        }
        given.parse().map(Self).map_err(|_| SamplingError::TopK)
    }
}

/// Sampling settings that were given as flags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SamplingFlags {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) seed: u64,
    /// Whether the seed was drawn, not given.
    pub(crate) is_seed_random: bool,
}

impl SamplingFlags {
    /// Returns these settings, with `defaults` for those that were not given.
    pub(crate) fn over(self, defaults: &SamplerConfig) -> SamplerConfig {
        let temperature = self.temperature.unwrap_or(defaults.temperature);
        SamplerConfig {
            temperature,
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            // The model's penalty is transformers', which applies to all tokens.
            repetition_window: match self.repetition_penalty {
                Some(_) => SamplerConfig::default().repetition_window,
                None => defaults.repetition_window,
            },
            // Greedy sampling uses no seed, so its reports have none that differs each time.
            seed: if self.is_seed_random && temperature == 0.0 { 0 } else { self.seed },
        }
    }

    /// Prints the seed of `sampler` on standard error if it was drawn and is used, so that samples can be repeated, or if
    /// `is_verbose`.
    pub(crate) fn note_seed(self, sampler: &SamplerConfig, is_verbose: bool) {
        if is_verbose || self.is_seed_random && sampler.temperature > 0.0 {
            note(&format!("seed: {}", sampler.seed));
        }
    }
}

/// Reads the sampling defaults in `generation_config.json` of a model; those of [`SamplerConfig`] where it has none. Settings that
/// are not supported are named on standard error.
///
/// # Errors
/// If the file cannot be read, is invalid, or has values out of range.
pub(crate) fn model_defaults(dir: &Path) -> anyhow::Result<SamplerConfig> {
    let path = dir.join(GENERATION_CONFIG);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(SamplerConfig::default()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let (config, ignored) = parse_defaults(&text).with_context(|| path.display().to_string())?;
    if !ignored.is_empty() {
        note(&format!("{}: not supported, and ignored: {}", path.display(), ignored.join(", ")));
    }
    Ok(config)
}

/// Returns the defaults in the text of a `generation_config.json`, and the settings that are ignored.
fn parse_defaults(text: &str) -> anyhow::Result<(SamplerConfig, Vec<String>)> {
    /// As in transformers; a missing field has no effect.
    #[derive(Deserialize)]
    struct Defaults {
        do_sample: Option<bool>,
        temperature: Option<f32>,
        top_k: Option<usize>,
        top_p: Option<f32>,
        min_p: Option<f32>,
        repetition_penalty: Option<f32>,
    }
    let all: Map<String, Value> = parse_python_json(text)?;
    let given: Defaults = deserialize_naming_fields(Value::Object(all.clone()))?;
    let is_active = |(name, neutral): &&(&str, f64)| {
        all.get(*name).is_some_and(|value| !value.is_null() && value.as_f64() != Some(*neutral))
    };
    let ignored = UNSUPPORTED.iter().filter(is_active).map(|(name, _)| (*name).to_owned()).collect();
    let defaults = SamplerConfig::default();
    let temperature = match (given.do_sample, given.temperature) {
        (Some(false), _) => 0.0,
        (_, Some(temperature)) => temperature,
        (Some(true), None) => 1.0,
        (None, None) => defaults.temperature,
    };
    let config = SamplerConfig {
        temperature,
        top_k: given.top_k.unwrap_or(defaults.top_k),
        top_p: given.top_p.unwrap_or(defaults.top_p),
        min_p: given.min_p.unwrap_or(defaults.min_p),
        repetition_penalty: given.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        repetition_window: given.repetition_penalty.map_or(defaults.repetition_window, |_| 0),
        ..defaults
    };
    config.validate()?;
    Ok((config, ignored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_a_random_seed_and_all_tokens() {
        assert_eq!(("-1".parse(), "7".parse()), (Ok(Seed::Random), Ok(Seed::Fixed(7))));
        assert_eq!(("-1".parse(), "0".parse(), "40".parse()), (Ok(TopK(0)), Ok(TopK(0)), Ok(TopK(40))));
        for given in ["-2", "", "1.5", "x", "18446744073709551616"] {
            assert!(given.parse::<Seed>().is_err() && given.parse::<TopK>().is_err(), "{given:?}");
        }
        let seeds: Vec<_> = (0..8).map(|_| Seed::Random.draw()).collect();
        assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
        assert_eq!(Seed::Fixed(u64::MAX).draw(), u64::MAX);
    }

    #[test]
    fn defaults_of_a_model_apply_where_no_flag_was_given() {
        let text =
            r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]}"#;
        let (defaults, ignored) = parse_defaults(text).unwrap();
        assert!(ignored.is_empty(), "{ignored:?}");
        let flags = SamplingFlags {
            temperature: None,
            top_k: None,
            top_p: Some(0.5),
            min_p: None,
            repetition_penalty: None,
            seed: 7,
            is_seed_random: false,
        };
        let config = flags.over(&defaults);
        assert_eq!((config.temperature, config.top_k, config.top_p, config.seed), (0.6, 20, 0.5, 7));
        let greedy = SamplingFlags { temperature: Some(0.0), ..flags };
        let config = greedy.over(&defaults);
        assert_eq!((config.temperature, config.seed), (0.0, 7));
        assert_eq!(SamplingFlags { is_seed_random: true, ..greedy }.over(&defaults).seed, 0);
        assert_eq!(SamplingFlags { is_seed_random: true, ..flags }.over(&defaults).seed, 7);
    }

    #[test]
    fn a_model_that_does_not_sample_is_greedy_and_one_without_settings_too() {
        let temperature = |text| parse_defaults(text).unwrap().0.temperature;
        assert_eq!(temperature(r#"{"do_sample": false, "temperature": 0.7}"#), 0.0);
        assert_eq!(temperature(r#"{"bos_token_id": 1}"#), 0.0);
        assert_eq!(temperature(r#"{"do_sample": true}"#), 1.0);
        assert_eq!(temperature(r#"{"temperature": 0.3}"#), 0.3);
    }

    #[test]
    fn settings_that_are_not_supported_are_named_unless_they_change_nothing() {
        let ignored = |text| parse_defaults(text).unwrap().1;
        assert_eq!(ignored(r#"{"typical_p": 0.9, "num_beams": 4}"#), ["typical_p", "num_beams"]);
        assert!(ignored(r#"{"typical_p": 1.0, "num_beams": 1, "penalty_alpha": null}"#).is_empty());
        for text in ["[]", r#"{"top_p": "high"}"#, r#"{"top_p": 7}"#, r#"{"temperature": -1}"#] {
            assert!(parse_defaults(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_penalty_of_a_model_applies_to_all_tokens() {
        let (defaults, _) = parse_defaults(r#"{"repetition_penalty": 1.1}"#).unwrap();
        assert_eq!((defaults.repetition_penalty, defaults.repetition_window), (1.1, 0));
    }
}
