//! Settings from environment variables, with the names and semantics of Hugging Face's tools.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::HubError;

const ENDPOINT_DEFAULT: &str = "https://huggingface.co";
/// Variables that forbid network access. The first one that is set decides.
const OFFLINE: [&str; 2] = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];

/// Settings of the hub.
#[derive(Debug)]
pub(super) struct Settings {
    /// Directory of the cached models.
    pub(super) cache_dir: PathBuf,
    /// URL of the hub, without a trailing slash.
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
    /// The variable that forbids requests, if one does.
    pub(super) offline: Option<&'static str>,
}

impl Settings {
    pub(super) fn from_env() -> Result<Self, HubError> {
        Self::new(&|name| env::var_os(name).filter(|value| !value.is_empty()), env::home_dir().as_deref())
    }

    /// `variable` returns the value of an environment variable that is set and not empty.
    fn new(variable: &dyn Fn(&str) -> Option<OsString>, user_home: Option<&Path>) -> Result<Self, HubError> {
        let text = |name: &str| {
            let value = variable(name)?.into_string().ok()?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let path = |name: &'static str| {
            variable(name).map(|value| expand(name, value, variable, user_home)).transpose()
        };
        let home = match (path("HF_HOME")?, path("XDG_CACHE_HOME")?, user_home) {
            (Some(home), _, _) => home,
            (None, Some(cache), _) => cache.join("huggingface"),
            (None, None, Some(user_home)) => user_home.join(".cache").join("huggingface"),
            (None, None, None) => return Err(HubError::NoHome),
        };
        let cache_dir = match (path("HF_HUB_CACHE")?, path("HUGGINGFACE_HUB_CACHE")?) {
            (Some(dir), _) | (None, Some(dir)) => dir,
            (None, None) => home.join("hub"),
        };
        // `hf auth login` writes the token to this file.
        let token_path = path("HF_TOKEN_PATH")?.unwrap_or_else(|| home.join("token"));
        let saved = || {
            let token = fs::read_to_string(&token_path).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
        if !["https://", "http://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(HubError::Endpoint { given: endpoint });
        }
        let offline = OFFLINE.into_iter().find_map(|name| Some((name, text(name)?)));
        Ok(Self {
            cache_dir,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(saved),
            offline: offline.filter(|(_, value)| is_true(value)).map(|(name, _)| name),
        })
    }
}

/// Expands `~` and `$NAME` in a path as Python's `os.path.expanduser` and `expandvars` do: unset variables are left as
/// they are.
fn expand(
    name: &'static str,
    value: OsString,
    variable: &dyn Fn(&str) -> Option<OsString>,
    user_home: Option<&Path>,
) -> Result<PathBuf, HubError> {
    let Some(text) = value.to_str() else { return Ok(value.into()) };
    let home = || user_home.and_then(Path::to_str);
    let expanded =
        shellexpand::full_with_context_no_errors(text, home, |name: &str| variable(name)?.into_string().ok());
    if expanded.starts_with('~') {
        return Err(HubError::UnexpandedTilde { name, given: text.to_owned() });
    }
    Ok(expanded.into_owned().into())
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Environment variables and their values.
    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn settings(variables: Variables<'_>) -> Result<Settings, HubError> {
        let variable = |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value)).filter(|value| !value.is_empty())
        };
        Settings::new(&variable, Some(Path::new("/home/me")))
    }

    fn cache_dir(variables: Variables<'_>) -> PathBuf {
        settings(variables).unwrap().cache_dir
    }

    #[test]
    fn directories_match_huggingface_hub() {
        let table: [(Variables<'_>, &str); 8] = [
            (&[], "/home/me/.cache/huggingface/hub"),
            (&[("HF_HOME", "")], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "~/c")], "/home/me/c/huggingface/hub"),
            (&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/c")], "/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hub")], "/hub"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new"),
        ];
        for (variables, expected) in table {
            assert_eq!(cache_dir(variables), Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn tilde_and_variables_in_paths_are_expanded_as_in_python() {
        let table: [(Variables<'_>, &str); 6] = [
            (&[("HF_HOME", "~/hf")], "/home/me/hf/hub"),
            (&[("HF_HOME", "~")], "/home/me/hub"),
            (&[("HF_HUB_CACHE", "~/models")], "/home/me/models"),
            (&[("HF_HOME", "$DISK/hf"), ("DISK", "/big")], "/big/hf/hub"),
            (&[("HF_HUB_CACHE", "${DISK}/a~b"), ("DISK", "/big")], "/big/a~b"),
            (&[("HF_HOME", "/x/$UNSET/hf")], "/x/$UNSET/hf/hub"),
        ];
        for (variables, expected) in table {
            assert_eq!(cache_dir(variables), Path::new(expected), "{variables:?}");
        }
        let error = settings(&[("HF_HOME", "~bob/hf")]).unwrap_err().to_string();
        assert!(error.starts_with("HF_HOME is \"~bob/hf\""), "{error}");
    }

    #[test]
    fn an_endpoint_is_an_address() {
        let endpoint = |given| settings(&[("HF_ENDPOINT", given)]).map(|settings| settings.endpoint);
        assert_eq!(endpoint("http://127.0.0.1:80/hub/").unwrap(), "http://127.0.0.1:80/hub");
        assert_eq!(endpoint("").unwrap(), ENDPOINT_DEFAULT);
        for given in ["hub.example", "ftp://hub.example"] {
            let error = endpoint(given).unwrap_err().to_string();
            assert!(error.starts_with(&format!("HF_ENDPOINT is \"{given}\"")), "{error}");
        }
    }

    #[test]
    fn a_token_comes_from_the_environment_or_the_file_of_a_login() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(dir.path().join("token"), "hf_home\n").unwrap();
        fs::write(&elsewhere, "hf_elsewhere\n").unwrap();
        let path = ("HF_TOKEN_PATH", elsewhere.to_str().unwrap());
        let token = |variables: Variables<'_>| {
            settings(&[&[("HF_HOME", home)], variables].concat()).unwrap().token.unwrap()
        };
        assert_eq!(token(&[]), "hf_home");
        assert_eq!(token(&[path]), "hf_elsewhere");
        assert_eq!(token(&[path, ("HF_TOKEN", "hf_said ")]), "hf_said");
    }

    #[test]
    fn either_variable_means_offline_and_the_first_that_is_set_decides() {
        let table: [(Variables<'_>, Option<&str>); 6] = [
            (&[], None),
            (&[("HF_HUB_OFFLINE", "YES")], Some("HF_HUB_OFFLINE")),
            (&[("HF_HUB_OFFLINE", "on")], Some("HF_HUB_OFFLINE")),
            (&[("TRANSFORMERS_OFFLINE", "1")], Some("TRANSFORMERS_OFFLINE")),
            (&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "True")], Some("TRANSFORMERS_OFFLINE")),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], None),
        ];
        for (variables, expected) in table {
            assert_eq!(settings(variables).unwrap().offline, expected, "{variables:?}");
        }
    }
}
