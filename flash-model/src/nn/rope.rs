//! Rotary position embedding, from a configuration.

mod scaling;
mod settings;

use crate::ModelError;
use crate::checkpoint::config::Config;
use crate::compute::{Frequencies, Rope};

use scaling::Kind;

pub(crate) use settings::{RopeDefaults, RopeLayers, RopeSettings};

impl RopeSettings {
    /// The rotation of heads of `head_dim` numbers that these settings describe.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for a setting that makes no rotation, or that is not known.
    pub(crate) fn rope(&self, head_dim: i32, config: &Config) -> Result<Rope, ModelError> {
        let dims = self.dims(head_dim, config)?;
        let theta = self.theta(config)?;
        let scaling = &self.scaling;
        let (frequencies, scale, magnitude) = match scaling.kind(config)? {
            // Dynamic NTK is the same up to `max_position_embeddings`, and contexts end there.
            Kind::Default | Kind::Dynamic => (Frequencies::Plain, 1.0, 1.0),
            Kind::Linear => (Frequencies::Plain, 1.0 / scaling.factor(config)?, 1.0),
            Kind::Llama3 => (Frequencies::Given(scaling.llama3(dims, theta, config)?), 1.0, 1.0),
            Kind::LongRope => {
                let magnitude = scaling.long_magnitude(self.max_positions, config)?;
                (Frequencies::Given(scaling.long(dims, theta, config)?), 1.0, magnitude)
            }
            Kind::Yarn => {
                let freqs = scaling.yarn(dims, theta, self.max_positions, config)?;
                (Frequencies::Given(freqs), 1.0, scaling.yarn_magnitude(config)?)
            }
        };
        Ok(Rope::new(dims, theta, self.traditional, frequencies, scale, magnitude))
    }
}
