//! Rotary position embedding, as configurations ask for it.

use std::f32::consts::PI;
use std::sync::Arc;

use mlx_rs::error::Exception;
use mlx_rs::{Array, fast};
use serde::Deserialize;

use crate::{Config, ModelError};

/// Rotary position embedding.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    freqs: Option<Array>,
    kernel: Arc<flash_kernels::Rope>,
}

/// What a configuration says of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeArgs<'a> {
    /// How many numbers of a head are rotated.
    pub dims: i32,
    pub theta: f32,
    /// Whether neighbours are paired.
    pub traditional: bool,
    pub scaling: Option<&'a RopeScaling>,
    /// The longest context that the model was trained for, which `longrope` looks at.
    pub max_position_embeddings: Option<usize>,
}

/// `rope_scaling` of a configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct RopeScaling {
    /// Older configurations call it `type`, and that name wins, as in mlx-lm.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_type: Option<String>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    pub original_max_position_embeddings: Option<f32>,
    long_factor: Option<Factors>,
    /// Newer configurations nest the base in here.
    pub rope_theta: Option<f32>,
}

/// One factor, or one for each frequency.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Factors {
    One(f32),
    Each(Vec<f32>),
}

/// How frequencies come about.
enum Frequencies {
    /// From the base.
    Plain,
    /// Each by itself: how many tokens a radian takes.
    Given(Vec<f32>),
}

impl Rope {
    pub(crate) fn new(args: RopeArgs<'_>, config: &Config) -> Result<Self, ModelError> {
        let RopeArgs { dims, theta, scaling, max_position_embeddings, .. } = args;
        config.positive("rope_theta", theta)?;
        let Some(scaling) = scaling else { return Ok(Self::of(args, Frequencies::Plain, 1.0, 1.0)) };
        let factor = || {
            let expected = "it must be a positive number";
            let given = format!("{:?}", scaling.factor);
            let factor = scaling.factor.filter(|factor| factor.is_finite() && *factor > 0.0);
            factor.ok_or_else(|| config.field_error("rope_scaling.factor", &given, expected))
        };
        Ok(match scaling.kind() {
            "default" => Self::of(args, Frequencies::Plain, 1.0, 1.0),
            "linear" => Self::of(args, Frequencies::Plain, 1.0 / factor()?, 1.0),
            "llama3" => Self::of(args, Frequencies::Given(scaling.llama3(dims, theta, factor()?)), 1.0, 1.0),
            "longrope" | "su" => {
                let freqs = scaling.long(dims, theta, config)?;
                let magnitude = scaling.long_magnitude(max_position_embeddings, config)?;
                Self::of(args, Frequencies::Given(freqs), 1.0, magnitude)
            }
            "yarn" | "deepseek_yarn" | "telechat3-yarn" => {
                let factor = factor()?;
                let freqs = scaling.yarn(dims, theta, factor, config)?;
                Self::of(args, Frequencies::Given(freqs), 1.0, scaling.yarn_magnitude(factor, config)?)
            }
            other => {
                let expected = "default, linear, llama3, longrope and yarn are supported";
                return Err(config.field_error("rope_scaling", &other, expected));
            }
        })
    }

    fn of(args: RopeArgs<'_>, frequencies: Frequencies, scale: f32, magnitude: f32) -> Self {
        let RopeArgs { dims, theta, traditional, .. } = args;
        let (base, freqs, inverse_frequencies) = match frequencies {
            Frequencies::Given(freqs) => {
                let inverse = freqs.iter().map(|freq| 1.0 / freq).collect();
                (None, Some(Array::from_slice(&freqs, &[freqs.len() as i32])), inverse)
            }
            // In f32, as MLX computes them.
            Frequencies::Plain => {
                let step = theta.ln() / (dims / 2) as f32;
                (Some(theta), None, (0..dims / 2).map(|i| (-(i as f32) * step).exp()).collect())
            }
        };
        let kernel = Arc::new(flash_kernels::Rope { inverse_frequencies, scale, magnitude, traditional });
        Self { dims, traditional, base, scale, freqs, kernel }
    }

    /// What the kernels take.
    pub(crate) fn kernel(&self) -> &Arc<flash_kernels::Rope> {
        &self.kernel
    }

    /// Rotates `x`, `[1, heads, n, head_dim]`, whose first token stands at `position`.
    pub(crate) fn apply(&self, x: &Array, position: usize) -> Result<Array, Exception> {
        let rotate = |x: &Array| {
            let Self { dims, traditional, base, scale, .. } = *self;
            fast::rope(x, dims, traditional, base, scale, position as i32, self.freqs.as_ref())
        };
        let magnitude = self.kernel.magnitude;
        if magnitude == 1.0 {
            return rotate(x);
        }
        let head_dim = x.dim(-1);
        let factors: Vec<f32> = (0..head_dim).map(|i| if i < self.dims { magnitude } else { 1.0 }).collect();
        rotate(&x.multiply(Array::from_slice(&factors, &[head_dim]))?)
    }
}

impl RopeScaling {
    /// What it is called.
    pub(crate) fn kind(&self) -> &str {
        self.old_type.as_deref().or(self.rope_type.as_deref()).unwrap_or("default")
    }

    /// Llama 3.1's frequencies: long wavelengths stretched by the factor, short ones kept, and a ramp between. As
    /// mlx-lm's `Llama3RoPE`, in f32.
    fn llama3(&self, dims: i32, theta: f32, factor: f32) -> Vec<f32> {
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
        frequencies(dims, theta).map(stretch).collect()
    }

    /// Frequencies stretched each by its own factor. As mlx-lm's `SuScaledRoPE`, which takes the long factors for contexts
    /// of any length.
    fn long(&self, dims: i32, theta: f32, config: &Config) -> Result<Vec<f32>, ModelError> {
        let error = |given: &str| {
            let expected = "a number, or one for each pair of rotated numbers";
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

    /// What is rotated is made larger by this, in longer contexts than the first training had.
    fn long_magnitude(&self, max_positions: Option<usize>, config: &Config) -> Result<f32, ModelError> {
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
                "longrope needs more than one",
            ));
        };
        let (longer, old) = (max_positions as f64 / f64::from(old), f64::from(old));
        Ok(if longer <= 1.0 { 1.0 } else { (1.0 + longer.ln() / old.ln()).sqrt() as f32 })
    }

    /// Pairs that turn often in the first training's context kept, those that turn seldom stretched by the factor, and a
    /// ramp between. As mlx-lm's `YarnRoPE`: the ends of the ramp in f64, frequencies in f32.
    fn yarn(&self, dims: i32, theta: f32, factor: f32, config: &Config) -> Result<Vec<f32>, ModelError> {
        let positive = |field, given: Option<f64>, default| {
            let number = given.unwrap_or(default);
            let expected = "it must be a positive number";
            if number.is_finite() && number > 0.0 {
                Ok(number)
            } else {
                Err(config.field_error(field, &number, expected))
            }
        };
        let old_context = self.original_max_position_embeddings.map(f64::from);
        let old_context = positive("rope_scaling.original_max_position_embeddings", old_context, 4096.0)?;
        let fast = positive("rope_scaling.beta_fast", self.beta_fast, 32.0)?;
        let slow = positive("rope_scaling.beta_slow", self.beta_slow, 1.0)?;
        if theta <= 1.0 {
            return Err(config.field_error("rope_theta", &theta, "yarn needs more than one"));
        }
        // The pair that turns so often in the first training's context.
        let pair = |turns: f64| {
            f64::from(dims) * (old_context / (turns * 2.0 * std::f64::consts::PI)).ln()
                / (2.0 * f64::from(theta).ln())
        };
        let first = pair(fast).floor().max(0.0);
        let mut last = pair(slow).ceil().min(f64::from(dims - 1));
        if first == last {
            // A ramp has to have a length.
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

    /// What the scale of the scores is multiplied by, where the model has that part of yarn's magnitude there.
    pub(crate) fn score_factor(&self) -> f32 {
        let (factor, mscale) = (f64::from(self.factor.unwrap_or(1.0)), self.mscale_all_dim.unwrap_or(0.0));
        if mscale == 0.0 || factor <= 1.0 {
            return 1.0;
        }
        (0.1 * mscale * factor.ln() + 1.0).powi(2) as f32
    }

    /// What is rotated is made larger by this. The scale of the scores may have another part of it: that is the model's.
    fn yarn_magnitude(&self, factor: f32, config: &Config) -> Result<f32, ModelError> {
        let magnitude = |mscale: f64| match f64::from(factor) {
            factor if factor <= 1.0 => 1.0,
            factor => 0.1 * mscale * factor.ln() + 1.0,
        };
        let [mscale, all_dim] = [self.mscale.unwrap_or(1.0), self.mscale_all_dim.unwrap_or(0.0)];
        let magnitude = (magnitude(mscale) / magnitude(all_dim)) as f32;
        if magnitude.is_finite() && magnitude > 0.0 {
            return Ok(magnitude);
        }
        let expected = "with mscale_all_dim it must give a positive magnitude";
        Err(config.field_error("rope_scaling.mscale", &mscale, expected))
    }
}

/// How many tokens a radian takes each pair.
fn frequencies(dims: i32, theta: f32) -> impl Iterator<Item = f32> {
    (0..dims / 2).map(move |idx| theta.powf((2 * idx) as f32 / dims as f32))
}
