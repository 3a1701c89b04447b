//! What the environment says of the hub. The variables are those of Hugging Face's own tools.

use std::env;
use std::path::PathBuf;

use etcetera::BaseStrategy;
use hf_hub::Cache;

use super::HubError;

const ENDPOINT_DEFAULT: &str = "https://huggingface.co";

#[derive(Debug)]
pub(super) struct Settings {
    /// The folder of all models in the cache.
    pub(super) cache_dir: PathBuf,
    /// Without a slash at its end.
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
    pub(super) is_offline: bool,
}

impl Settings {
    pub(super) fn from_env() -> Result<Self, HubError> {
        let home = match env::var_os("HF_HOME") {
            Some(home) if !home.is_empty() => PathBuf::from(home),
            _ => etcetera::choose_base_strategy()
                .map_err(|_| HubError::NoHome)?
                .cache_dir()
                .join("huggingface"),
        };
        let cache_dir = match env::var_os("HF_HUB_CACHE") {
            Some(dir) if !dir.is_empty() => dir.into(),
            _ => home.join("hub"),
        };
        // Logging in with Hugging Face's tools leaves a token in that folder.
        let token = text("HF_TOKEN").or_else(|| Cache::new(home.join("hub")).token());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
        Ok(Self {
            cache_dir,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            is_offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
        })
    }
}

/// What a variable says, if it says anything.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}
