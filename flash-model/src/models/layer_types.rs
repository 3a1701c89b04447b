//! How many tokens the layers of a model see, where its configuration says of each what it is.

use serde::Deserialize;

use crate::{Config, ModelError};

/// `layer_types` of a configuration.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LayerTypes(Vec<String>);

impl LayerTypes {
    /// Windows in every other layer, the first of them.
    pub(super) fn alternating(n_layers: usize) -> Self {
        let kinds = ["sliding_attention", "full_attention"].map(str::to_owned);
        Self(kinds.into_iter().cycle().take(n_layers).collect())
    }

    /// The window of a layer, if it has one; then it is `sliding_window`.
    pub(super) fn window(
        &self,
        layer_idx: usize,
        sliding_window: Option<usize>,
        config: &Config,
    ) -> Result<Option<usize>, ModelError> {
        match self.0.get(layer_idx).map_or("missing", String::as_str) {
            "full_attention" => Ok(None),
            "sliding_attention" => match sliding_window {
                Some(window @ 1..) => Ok(Some(window)),
                other => {
                    let given = format!("{other:?}");
                    Err(config.field_error("sliding_window", &given, "sliding_attention needs one"))
                }
            },
            other => {
                let expected = "full_attention or sliding_attention for each layer";
                Err(config.field_error("layer_types", &other, expected))
            }
        }
    }
}
