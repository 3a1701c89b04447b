//! The sliding window of each layer of a model.

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;

/// How many tokens each layer sees; none for layers that see all.
#[derive(Debug, Clone)]
pub(super) struct Windows(Vec<Option<usize>>);

/// Which layers have a window in configurations without `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// None, whatever `sliding_window` says.
    Full,
    /// All, if there is a `sliding_window`. mlx-lm does not read it in these families, transformers does.
    Sliding,
    /// All but every so many.
    AllButEvery(usize),
    /// Those from `max_window_layers` on, if `use_sliding_window` is true. As above.
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
    /// Reads the windows of `n_layers` layers; `default_window` is theirs where `sliding_window` is absent.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for a type of layer that is not known or missing, or a window of no token.
    pub(super) fn of(
        config: &Config,
        n_layers: usize,
        unlisted: Unlisted,
        default_window: Option<usize>,
    ) -> Result<Self, ModelError> {
        let fields: Fields = config.args()?;
        let slides: Vec<bool> = match &fields.layer_types {
            Some(types) if types.len() != n_layers => {
                let given = format!("{} types", types.len());
                return Err(config.field_error("layer_types", &given, "one for each layer"));
            }
            Some(types) => {
                let slides = |layer_idx| match types.get(layer_idx).map_or("missing", String::as_str) {
                    FULL => Ok(false),
                    SLIDING => Ok(true),
                    other => {
                        let expected = "full_attention or sliding_attention for each layer";
                        Err(config.field_error("layer_types", &other, expected))
                    }
                };
                (0..n_layers).map(slides).collect::<Result<_, _>>()?
            }
            None => (0..n_layers).map(|layer_idx| fields.slides(layer_idx, unlisted)).collect(),
        };
        let uses_windows = fields.use_sliding_window.unwrap_or(true);
        let window = || match fields.sliding_window.or(default_window).filter(|_| uses_windows) {
            Some(window @ 1..) => Ok(window),
            other => {
                let given = other.map_or_else(|| "missing".to_owned(), |window| window.to_string());
                Err(config.field_error("sliding_window", &given, "layers with a window need one"))
            }
        };
        let windows = slides.into_iter().map(|slides| slides.then(window).transpose());
        Ok(Self(windows.collect::<Result<_, _>>()?))
    }

    /// The window of a layer.
    pub(super) fn of_layer(&self, layer_idx: usize) -> Option<usize> {
        self.0[layer_idx]
    }
}

impl Fields {
    /// Whether a layer has a window where no list says so.
    fn slides(&self, layer_idx: usize, unlisted: Unlisted) -> bool {
        match unlisted {
            Unlisted::Full => false,
            Unlisted::Sliding => self.sliding_window.is_some() && self.use_sliding_window != Some(false),
            Unlisted::AllButEvery(n) => !(layer_idx + 1).is_multiple_of(n),
            Unlisted::FromMaxWindowLayers => {
                self.use_sliding_window == Some(true) && layer_idx >= self.max_window_layers.unwrap_or(28)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn windows(fields: &Value, unlisted: Unlisted) -> Result<Vec<Option<usize>>, String> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({ "model_type": "qwen2" });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let config = Config::open(dir.path()).unwrap();
        Windows::of(&config, 3, unlisted, None).map(|found| found.0).map_err(|error| error.to_string())
    }

    #[test]
    fn windows_follow_the_list_before_anything_else() {
        let listed = json!({ "layer_types": [FULL, SLIDING, FULL], "sliding_window": 8 });
        for unlisted in
            [Unlisted::Full, Unlisted::Sliding, Unlisted::AllButEvery(2), Unlisted::FromMaxWindowLayers]
        {
            assert_eq!(windows(&listed, unlisted), Ok(vec![None, Some(8), None]), "{unlisted:?}");
        }
    }

    #[test]
    fn windows_of_mistral_are_in_all_layers_and_those_of_qwen_behind_the_first() {
        let window = json!({ "sliding_window": 8 });
        assert_eq!(windows(&window, Unlisted::Full), Ok(vec![None; 3]));
        assert_eq!(windows(&window, Unlisted::Sliding), Ok(vec![Some(8); 3]));
        assert_eq!(windows(&json!({}), Unlisted::Sliding), Ok(vec![None; 3]));
        let qwen = Unlisted::FromMaxWindowLayers;
        assert_eq!(windows(&window, qwen), Ok(vec![None; 3]));
        let used = json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 2 });
        assert_eq!(windows(&used, qwen), Ok(vec![None, None, Some(8)]));
        let without = json!({ "use_sliding_window": true, "max_window_layers": 2 });
        assert!(windows(&without, qwen).unwrap_err().contains("sliding_window"));
    }
}
