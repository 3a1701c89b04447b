//! Sliding windows of the layers of a model.

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;

/// The sliding window of each layer; `None` for full attention.
#[derive(Debug, Clone)]
pub(super) struct Windows(Vec<Option<usize>>);

/// The pattern of sliding-window layers in configurations without `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowPattern {
    /// All layers have full attention, whatever `sliding_window` says.
    Full,
    /// All layers slide if there is a `sliding_window`, as in transformers; mlx-lm does not read it in these families.
    Sliding,
    /// All layers slide but every `n`-th.
    AllButEvery(usize),
    /// Layers from `max_window_layers` on slide if `use_sliding_window` is true, as in transformers.
    FromMaxWindowLayers,
}

#[derive(Debug, Deserialize)]
struct Fields {
    layer_types: Option<Vec<String>>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

impl Windows {
    /// Reads the windows of `n_layers` layers; `default_window` applies where `sliding_window` is absent.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for an unknown or missing layer type, or a window that is missing or zero.
    pub(super) fn from_config(
        config: &Config,
        n_layers: usize,
        pattern: WindowPattern,
        default_window: Option<usize>,
    ) -> Result<Self, ModelError> {
        let fields: Fields = config.args()?;
        let slides: Vec<bool> = match &fields.layer_types {
            Some(types) if types.len() != n_layers => {
                let given = format!("{} types", types.len());
                return Err(config.field_error("layer_types", &given, "it must have one for each layer"));
            }
            Some(types) => {
                let slides = |layer_idx| match types.get(layer_idx).map_or("missing", String::as_str) {
                    FULL => Ok(false),
                    SLIDING => Ok(true),
                    other => {
                        let expected = "it must be full_attention or sliding_attention for each layer";
                        Err(config.field_error("layer_types", &other, expected))
                    }
                };
                (0..n_layers).map(slides).collect::<Result<_, _>>()?
            }
            None => (0..n_layers).map(|layer_idx| fields.slides(layer_idx, pattern)).collect(),
        };
        let uses_windows = fields.use_sliding_window.unwrap_or(true);
        let window = || match fields.sliding_window.or(default_window).filter(|_| uses_windows) {
            Some(window @ 1..) => Ok(window),
            other => {
                let given = other.map_or_else(|| "missing".to_owned(), |window| window.to_string());
                Err(config.field_error(
                    "sliding_window",
                    &given,
                    "sliding_attention layers need a positive one",
                ))
            }
        };
        let windows = slides.into_iter().map(|slides| slides.then(window).transpose());
        Ok(Self(windows.collect::<Result<_, _>>()?))
    }

    /// Returns the window of a layer; `None` for full attention.
    pub(super) fn of_layer(&self, layer_idx: usize) -> Option<usize> {
        self.0[layer_idx]
    }
}

impl Fields {
    /// Returns whether a layer slides, in a configuration without `layer_types`.
    fn slides(&self, layer_idx: usize, pattern: WindowPattern) -> bool {
        match pattern {
            WindowPattern::Full => false,
            WindowPattern::Sliding => self.sliding_window.is_some() && self.use_sliding_window != Some(false),
            WindowPattern::AllButEvery(n) => !(layer_idx + 1).is_multiple_of(n),
            WindowPattern::FromMaxWindowLayers => {
                self.use_sliding_window == Some(true) && layer_idx >= self.max_window_layers.unwrap_or(28)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn windows(fields: &Value, pattern: WindowPattern) -> Result<Vec<Option<usize>>, String> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({ "model_type": "qwen2" });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let config = Config::open(dir.path()).unwrap();
        Windows::from_config(&config, 3, pattern, None)
            .map(|found| found.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn layer_types_take_precedence_over_the_pattern() {
        let listed = json!({ "layer_types": [FULL, SLIDING, FULL], "sliding_window": 8 });
        for pattern in [
            WindowPattern::Full,
            WindowPattern::Sliding,
            WindowPattern::AllButEvery(2),
            WindowPattern::FromMaxWindowLayers,
        ] {
            assert_eq!(windows(&listed, pattern), Ok(vec![None, Some(8), None]), "{pattern:?}");
        }
    }

    #[test]
    fn mistral_slides_in_all_layers_and_qwen_from_max_window_layers_on() {
        let window = json!({ "sliding_window": 8 });
        assert_eq!(windows(&window, WindowPattern::Full), Ok(vec![None; 3]));
        assert_eq!(windows(&window, WindowPattern::Sliding), Ok(vec![Some(8); 3]));
        assert_eq!(windows(&json!({}), WindowPattern::Sliding), Ok(vec![None; 3]));
        let qwen = WindowPattern::FromMaxWindowLayers;
        assert_eq!(windows(&window, qwen), Ok(vec![None; 3]));
        let used = json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 2 });
        assert_eq!(windows(&used, qwen), Ok(vec![None, None, Some(8)]));
        let without = json!({ "use_sliding_window": true, "max_window_layers": 2 });
        assert!(windows(&without, qwen).unwrap_err().contains("sliding_window"));
    }
}
