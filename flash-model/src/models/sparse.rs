//! Which layers of a model have experts, in the families of Qwen.

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;

/// Layers with experts: every so many, but for those that are listed.
#[derive(Debug, Deserialize)]
pub(super) struct SparseLayers {
    #[serde(default = "every_layer")]
    decoder_sparse_step: usize,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
}

fn every_layer() -> usize {
    1
}

/// The number of experts, where the configuration must say it.
///
/// # Errors
/// [`ModelError::ConfigField`] if it does not.
pub(super) fn required_experts(config: &Config) -> Result<usize, ModelError> {
    config.n_experts()?.ok_or_else(|| config.field_error("num_experts", &"missing", "it must be a number"))
}

impl SparseLayers {
    pub(super) fn of(config: &Config) -> Result<Self, ModelError> {
        config.args()
    }

    pub(super) fn contain(&self, layer_idx: usize) -> bool {
        !self.mlp_only_layers.contains(&layer_idx)
            && (layer_idx + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }
}
