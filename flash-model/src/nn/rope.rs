//! Rotary position embedding (RoPE) as a configuration describes it.

mod scaling;
mod settings;

use crate::ModelError;
use crate::checkpoint::config::Config;
use crate::compute::{Frequencies, Rope};

use scaling::RopeType;

pub(crate) use settings::{RopeDefaults, RopeLayers, RopeSettings};

impl RopeSettings {
    /// Returns the rotary embedding of heads of `head_dim` dimensions.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for a setting that is invalid or unknown.
    pub(crate) fn rope(&self, head_dim: i32, config: &Config) -> Result<Rope, ModelError> {
        let dims = self.dims(head_dim, config)?;
        let theta = self.theta(config)?;
        let scaling = &self.scaling;
        let (frequencies, scale, magnitude) = match scaling.kind(config)? {
            // Dynamic NTK scales only beyond `max_position_embeddings`, where contexts end here.
            RopeType::Default | RopeType::Dynamic => (Frequencies::Plain, 1.0, 1.0),
            RopeType::Linear => (Frequencies::Plain, 1.0 / scaling.factor(config)?, 1.0),
            RopeType::Llama3 => (Frequencies::Given(scaling.llama3(dims, theta, config)?), 1.0, 1.0),
            RopeType::LongRope => {
                let magnitude = scaling.longrope_magnitude(self.max_positions, config)?;
                (Frequencies::Given(scaling.longrope(dims, theta, config)?), 1.0, magnitude)
            }
            RopeType::Yarn => {
                let freqs = scaling.yarn(dims, theta, self.max_positions, config)?;
                (Frequencies::Given(freqs), 1.0, scaling.yarn_magnitude(config)?)
            }
        };
        Ok(Rope::new(dims, theta, self.traditional, frequencies, scale, magnitude))
    }
}
