//! Sparse layers, those with a mixture of experts, in the Qwen families.

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;

/// The sparse layers: every `decoder_sparse_step`-th, except those in `mlp_only_layers`.
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

/// Returns the number of experts.
///
/// # Errors
/// [`ModelError::ConfigField`] if the configuration has none.
pub(super) fn required_experts(config: &Config) -> Result<usize, ModelError> {
    config.n_experts()?.ok_or_else(|| config.field_error("num_experts", &"missing", "it must be a number"))
}

impl SparseLayers {
    pub(super) fn from_config(config: &Config) -> Result<Self, ModelError> {
        config.args()
    }

    pub(super) fn contains(&self, layer_idx: usize) -> bool {
        !self.mlp_only_layers.contains(&layer_idx)
            && (layer_idx + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }
}
