//! RoPE scaling, as in `mlx_lm/models/rope_utils.py`.

use std::f32::consts::PI;

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;

/// An object of RoPE settings. Unknown fields are errors, since they may change every output.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RopeScaling {
    rope_type: Option<String>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    /// Whether `YaRN`'s ramp begins and ends at whole pairs.
    truncate: Option<bool>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    /// Overrides the magnitude that `YaRN` and `LongRoPE` compute from their factors.
    attention_factor: Option<f64>,
    pub original_max_position_embeddings: Option<f32>,
    long_factor: Option<Factors>,
    /// Factors for contexts up to the original length. Unused: as in mlx-lm, all contexts get the long factors.
    short_factor: Option<Factors>,
    long_mscale: Option<f64>,
    short_mscale: Option<f64>,
    /// Pairs of each axis of M-RoPE. Unused: text has the same position on all axes.
    mrope_section: Option<Vec<u32>>,
    mrope_interleaved: Option<bool>,
    /// Names of `YaRN`'s settings in other programs; neither mlx-lm nor transformers reads them.
    attn_factor: Option<f64>,
    extrapolation_factor: Option<f64>,
    /// Set by Llama-based checkpoints that were fine-tuned with scaling; changes nothing.
    finetuned: Option<bool>,
    pub(super) rope_theta: Option<f32>,
    pub(super) partial_rotary_factor: Option<f32>,
}

/// A factor for all frequencies, or one for each.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Factors {
    One(f32),
    Each(Vec<f32>),
}

/// The scaling method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RopeType {
    Default,
    Linear,
    Dynamic,
    Llama3,
    LongRope,
    Yarn,
}

/// Default of `original_max_position_embeddings` for `YaRN` in mlx-lm.
const YARN_POSITIONS: f64 = 4096.0;

impl RopeScaling {
    /// Returns the scaling method.
    pub(super) fn kind(&self, config: &Config) -> Result<RopeType, ModelError> {
        Ok(match self.rope_type.as_deref().unwrap_or("default") {
            "default" | "mrope" => RopeType::Default,
            "linear" => RopeType::Linear,
            "dynamic" => RopeType::Dynamic,
            "llama3" => RopeType::Llama3,
            "longrope" | "su" => RopeType::LongRope,
            "yarn" | "deepseek_yarn" | "telechat3-yarn" => RopeType::Yarn,
            other => {
                let expected = "default, linear, dynamic, llama3, longrope and yarn are supported";
                return Err(config.field_error("rope_scaling", &other, expected));
            }
        })
    }

    /// Returns the required `factor`.
    pub(super) fn factor(&self, config: &Config) -> Result<f32, ModelError> {
        let expected = "it must be a positive number";
        let given = self.factor.map_or_else(|| "missing".to_owned(), |factor| factor.to_string());
        let factor = self.factor.filter(|factor| factor.is_finite() && *factor > 0.0);
        factor.ok_or_else(|| config.field_error("rope_scaling.factor", &given, expected))
    }

    /// Returns the context length after extension: `factor` times the original one.
    pub(super) fn extended_positions(&self) -> Option<usize> {
        let extended = f64::from(self.factor?) * f64::from(self.original_max_position_embeddings?);
        extended.is_finite().then_some(extended as usize)
    }

    /// Returns the frequencies of Llama 3.1: long wavelengths scaled by the factor, short ones kept, a ramp between. In
    /// f32, as in mlx-lm's `Llama3RoPE`.
    pub(super) fn llama3(&self, dims: i32, theta: f32, config: &Config) -> Result<Vec<f32>, ModelError> {
        let factor = self.factor(config)?;
        let low = self.low_freq_factor.unwrap_or(1.0);
        let high = self.high_freq_factor.unwrap_or(4.0);
        let old_context = self.original_max_position_embeddings.unwrap_or(8192.0);
        let stretch = |freq: f32| {
            let wavelength = 2.0 * PI * freq;
            if wavelength > old_context / low {
                freq * factor
            } else if wavelength > old_context / high {
                let smooth = (old_context / wavelength - low) / (high - low);
                freq / ((1.0 - smooth) / factor + smooth)
            } else {
                freq
            }
        };
        Ok(frequencies(dims, theta).map(stretch).collect())
    }

    /// Returns the frequencies of `LongRoPE`, each scaled by its own factor. As in mlx-lm's `SuScaledRoPE`, contexts of
    /// any length use the long factors.
    pub(super) fn longrope(&self, dims: i32, theta: f32, config: &Config) -> Result<Vec<f32>, ModelError> {
        for (field, given) in [("long_mscale", self.long_mscale), ("short_mscale", self.short_mscale)] {
            if let Some(given) = given {
                let expected = "longrope with explicit magnitudes is not supported";
                return Err(config.field_error(&format!("rope_scaling.{field}"), &given, expected));
            }
        }
        let error = |given: &str| {
            let expected = "it must be a number, or a list of one for each rotated pair";
            Err(config.field_error("rope_scaling.long_factor", &given, expected))
        };
        let freqs = frequencies(dims, theta);
        match &self.long_factor {
            None => error("missing"),
            Some(Factors::One(factor)) => Ok(freqs.map(|freq| factor * freq).collect()),
            Some(Factors::Each(factors)) if factors.len() == (dims / 2) as usize => {
                Ok(factors.iter().zip(freqs).map(|(factor, freq)| factor * freq).collect())
            }
            Some(Factors::Each(factors)) => error(&format!("{} numbers", factors.len())),
        }
    }

    /// Returns `LongRoPE`'s magnitude: the factor on rotated elements, for contexts beyond the original length.
    pub(super) fn longrope_magnitude(
        &self,
        max_positions: Option<usize>,
        config: &Config,
    ) -> Result<f32, ModelError> {
        if let Some(factor) = self.attention_factor {
            return positive_magnitude("rope_scaling.attention_factor", factor, config);
        }
        let Some(max_positions) = max_positions else {
            let expected = "longrope needs it";
            return Err(config.field_error("max_position_embeddings", &"missing", expected));
        };
        let old = self.original_max_position_embeddings;
        let Some(old) = old.filter(|old| old.is_finite() && *old > 1.0) else {
            let given = format!("{old:?}");
            return Err(config.field_error(
                "original_max_position_embeddings",
                &given,
                "longrope needs more than 1",
            ));
        };
        let longer = match self.factor {
            Some(_) => f64::from(self.factor(config)?),
            None => max_positions as f64 / f64::from(old),
        };
        Ok(if longer <= 1.0 { 1.0 } else { (1.0 + longer.ln() / f64::from(old).ln()).sqrt() as f32 })
    }

    /// Returns the frequencies of `YaRN`: pairs that rotate often within the original context are kept, those that
    /// rotate seldom are scaled by the factor, and a ramp lies between. As in mlx-lm's `YarnRoPE`, the ends of the ramp
    /// are f64 and frequencies f32. If `truncate` is false, the ends are not rounded to whole pairs, as in
    /// transformers; mlx-lm does not have that setting.
    pub(super) fn yarn(
        &self,
        dims: i32,
        theta: f32,
        max_positions: Option<usize>,
        config: &Config,
    ) -> Result<Vec<f32>, ModelError> {
        let factor = self.factor(config)?;
        let positive = |field, given: Option<f64>, default| {
            let number = given.unwrap_or(default);
            let expected = "it must be a positive number";
            if number.is_finite() && number > 0.0 {
                Ok(number)
            } else {
                Err(config.field_error(field, &number, expected))
            }
        };
        let field = "rope_scaling.original_max_position_embeddings";
        let old_context = self.original_max_position_embeddings.map(f64::from);
        if old_context.is_none() && max_positions.is_some_and(|given| given as f64 != YARN_POSITIONS) {
            let expected = "yarn needs it: mlx-lm and transformers have different defaults";
            return Err(config.field_error(field, &"missing", expected));
        }
        let old_context = positive(field, old_context, YARN_POSITIONS)?;
        let fast = positive("rope_scaling.beta_fast", self.beta_fast, 32.0)?;
        let slow = positive("rope_scaling.beta_slow", self.beta_slow, 1.0)?;
        if theta <= 1.0 {
            return Err(config.field_error("rope_theta", &theta, "yarn needs more than 1"));
        }
        // The pair that makes `turns` rotations within the original context.
        let pair = |turns: f64| {
            f64::from(dims) * (old_context / (turns * 2.0 * std::f64::consts::PI)).ln()
                / (2.0 * f64::from(theta).ln())
        };
        let (first, last) = match self.truncate {
            Some(false) => (pair(fast), pair(slow)),
            _ => (pair(fast).floor(), pair(slow).ceil()),
        };
        let (first, mut last) = (first.max(0.0), last.min(f64::from(dims - 1)));
        if first == last {
            // Avoids a division by zero.
            last += 0.001;
        }
        let (first, length) = (first as f32, (last - first) as f32);
        let stretch = |(pair, freq): (usize, f32)| {
            let kept = 1.0 - ((pair as f32 - first) / length).clamp(0.0, 1.0);
            let stretched = factor * freq;
            stretched * freq / (stretched * kept + freq * (1.0 - kept))
        };
        Ok(frequencies(dims, theta).enumerate().map(stretch).collect())
    }

    /// Returns the factor on the softmax scale, in models that apply `mscale_all_dim` there.
    pub(crate) fn softmax_factor(&self) -> f32 {
        let (factor, mscale) = (f64::from(self.factor.unwrap_or(1.0)), self.mscale_all_dim.unwrap_or(0.0));
        if mscale == 0.0 || factor <= 1.0 {
            return 1.0;
        }
        (0.1 * mscale * factor.ln() + 1.0).powi(2) as f32
    }

    /// Returns `YaRN`'s magnitude: the factor on rotated elements. [`softmax_factor`](Self::softmax_factor) may hold
    /// the rest of it.
    pub(super) fn yarn_magnitude(&self, config: &Config) -> Result<f32, ModelError> {
        if let Some(factor) = self.attention_factor {
            return positive_magnitude("rope_scaling.attention_factor", factor, config);
        }
        let factor = f64::from(self.factor(config)?);
        let magnitude = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let [mscale, all_dim] = [self.mscale.unwrap_or(1.0), self.mscale_all_dim.unwrap_or(0.0)];
        let magnitude = magnitude(mscale) / magnitude(all_dim);
        if magnitude.is_finite() && magnitude > 0.0 {
            return Ok(magnitude as f32);
        }
        let expected = "with mscale_all_dim, it must result in a positive magnitude";
        Err(config.field_error("rope_scaling.mscale", &mscale, expected))
    }
}

/// Checks an explicit magnitude.
fn positive_magnitude(field: &str, given: f64, config: &Config) -> Result<f32, ModelError> {
    config.positive(field, given as f32)?;
    Ok(given as f32)
}

/// Returns the inverse frequency of each pair, in tokens per radian: the `freqs` of `mx.fast.rope`.
fn frequencies(dims: i32, theta: f32) -> impl Iterator<Item = f32> {
    (0..dims / 2).map(move |idx| theta.powf((2 * idx) as f32 / dims as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"model_type": "gpt_oss"}"#).unwrap();
        Config::open(dir.path()).unwrap()
    }

    /// Inverse frequencies of transformers 5.24.0 (`_compute_yarn_parameters`) for the settings of gpt-oss-20b: dims
    /// 64, base 150000, factor 32, 4096 positions.
    #[test]
    fn yarn_that_is_not_truncated_has_the_frequencies_of_transformers() {
        let scaling = |truncate| RopeScaling {
            factor: Some(32.0),
            beta_fast: Some(32.0),
            beta_slow: Some(1.0),
            truncate,
            original_max_position_embeddings: Some(4096.0),
            ..RopeScaling::default()
        };
        let freqs = |truncate| scaling(truncate).yarn(64, 150_000.0, Some(131_072), &config()).unwrap();
        let wanted = [
            (0, 1.0),
            (8, 0.050_813_28),
            (9, 0.031_705_696),
            (12, 0.006_794_959_3),
            (16, 4.564_839_2e-4),
            (17, 1.293_187e-4),
            (18, 3.830_881e-5),
            (31, 3.023_511_4e-7),
        ];
        for (pair, inverse) in wanted {
            let found = 1.0 / freqs(Some(false))[pair];
            assert!((found / inverse - 1.0).abs() < 1e-5, "pair {pair}: {found} for {inverse}");
        }
        assert_ne!(freqs(Some(false)), freqs(None));
        assert_eq!(freqs(Some(true)), freqs(None));
    }

    #[test]
    fn an_attention_factor_is_taken_as_it_is() {
        let scaling =
            RopeScaling { factor: Some(4.0), attention_factor: Some(1.25), ..RopeScaling::default() };
        assert_eq!(scaling.yarn_magnitude(&config()).unwrap(), 1.25);
        let negative = RopeScaling { attention_factor: Some(-1.0), ..scaling };
        assert!(negative.yarn_magnitude(&config()).is_err());
    }
}
