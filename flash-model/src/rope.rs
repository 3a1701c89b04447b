//! Rotary position embedding.

mod scaling;
mod settings;

use std::sync::Arc;

use mlx_rs::error::Exception;
use mlx_rs::{Array, fast};

use crate::{Config, ModelError};

use scaling::Kind;

pub(crate) use settings::{RopeDefaults, RopeLayers, RopeSettings};

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

/// The frequencies of a rotation.
enum Frequencies {
    /// From the base.
    Plain,
    /// Each by itself: how many tokens a radian takes.
    Given(Vec<f32>),
}

impl Rope {
    /// The rotation of heads of `head_dim` numbers that `settings` describe.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for a setting that makes no rotation, or that is not known.
    pub(crate) fn new(settings: &RopeSettings, head_dim: i32, config: &Config) -> Result<Self, ModelError> {
        let dims = settings.dims(head_dim, config)?;
        let theta = settings.theta(config)?;
        let scaling = &settings.scaling;
        let (frequencies, scale, magnitude) = match scaling.kind(config)? {
            // Dynamic NTK is the same up to `max_position_embeddings`, and contexts end there.
            Kind::Default | Kind::Dynamic => (Frequencies::Plain, 1.0, 1.0),
            Kind::Linear => (Frequencies::Plain, 1.0 / scaling.factor(config)?, 1.0),
            Kind::Llama3 => (Frequencies::Given(scaling.llama3(dims, theta, config)?), 1.0, 1.0),
            Kind::LongRope => {
                let magnitude = scaling.long_magnitude(settings.max_positions, config)?;
                (Frequencies::Given(scaling.long(dims, theta, config)?), 1.0, magnitude)
            }
            Kind::Yarn => {
                let freqs = scaling.yarn(dims, theta, settings.max_positions, config)?;
                (Frequencies::Given(freqs), 1.0, scaling.yarn_magnitude(config)?)
            }
        };
        Ok(Self::of(dims, theta, settings.traditional, frequencies, scale, magnitude))
    }

    fn of(
        dims: i32,
        theta: f32,
        traditional: bool,
        frequencies: Frequencies,
        scale: f32,
        magnitude: f32,
    ) -> Self {
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
