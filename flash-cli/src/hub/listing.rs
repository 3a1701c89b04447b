//! Requests the list of a model's files from the hub.

use std::time::{Duration, SystemTime};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::error::HubError;
use super::files::{self, RemoteFile};
use super::id::{ModelId, is_commit};
use super::retry::{self, Retries, Retry};
use super::settings::Settings;

/// Time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The files of a model at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// Response of the hub.
#[derive(Debug, Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
}

impl Listing {
    /// Requests the files of a model at `revision`. If the hub is busy, the request is retried as often as a download.
    pub(super) fn fetch(settings: &Settings, id: &ModelId, revision: &str) -> Result<Self, HubError> {
        let url = format!("{}/api/models/{}", settings.endpoint, id.repo());
        let failed = |error| HubError::Request { url: url.clone(), error: Box::new(error) };
        let repo = repo(settings, id, revision)?;
        let mut retries = Retries::default();
        let mut response = loop {
            let response = repo
                .info_request()
                .query("blobs", "true")
                .config()
                // Error responses are inspected below: their headers tell more than the status.
                .http_status_as_error(false)
                .timeout_global(Some(REQUEST_TIMEOUT))
                .build()
                .call()
                .map_err(failed)?;
            if !retry::is_transient(response.status()) {
                break response;
            }
            let (url, status) = (url.clone(), response.status().as_u16());
            match retries.record_failure(retry::retry_after(response.headers(), SystemTime::now())) {
                Retry::After(pause) => retry::wait(&url, pause, &|| true),
                Retry::TooLong { wait } => return Err(HubError::Busy { url, status, wait }),
                Retry::Exhausted => return Err(HubError::Status { url, status }),
            }
        };
        let status = response.status().as_u16();
        match status {
            200 => {}
            401 | 403 => {
                let has_token = settings.token.is_some();
                return Err(HubError::Refused { id: id.clone(), status, has_token });
            }
            404 => {
                let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
                return Err(if code == Some("RevisionNotFound") {
                    HubError::NoRevision { id: id.clone() }
                } else {
                    HubError::NoModel { id: id.clone(), endpoint: settings.endpoint.clone() }
                });
            }
            _ => return Err(HubError::Status { url, status }),
        }
        let answer: Answer = response.body_mut().read_json().map_err(|error| match error {
            ureq::Error::Json(error) => HubError::Listing { url: url.clone(), problem: error.to_string() },
            error => failed(error),
        })?;
        Self::check(answer, revision).map_err(|problem| match problem {
            Problem::Listing(problem) => HubError::Listing { url, problem },
            Problem::Missing(wanted) => HubError::NotAModel { id: id.clone(), wanted },
        })
    }

    /// Validates a response. Commit, names and hashes become parts of paths, and the server is not trusted.
    fn check(answer: Answer, revision: &str) -> Result<Self, Problem> {
        let Answer { sha: commit, siblings } = answer;
        if !is_commit(&commit) {
            return Err(Problem::Listing(format!("{commit:?} is not a commit")));
        }
        if is_commit(revision) && revision != commit {
            return Err(Problem::Listing(format!("it is for commit {commit}")));
        }
        let mut files = Vec::with_capacity(siblings.len());
        for Sibling { rfilename: name, size, blob_id, lfs } in siblings {
            let hash = lfs.map(|lfs| lfs.sha256).or(blob_id);
            let Some((bytes, hash)) = size.zip(hash) else {
                return Err(Problem::Listing(format!("{name:?} has no size or no hash")));
            };
            if !files::is_hash(&hash) {
                return Err(Problem::Listing(format!("invalid hash of {name:?}: {hash:?}")));
            }
            files.push(RemoteFile { name, bytes, hash });
        }
        let files = files::needed(files).map_err(Problem::Missing)?;
        Ok(Self { commit, files })
    }
}

/// Why a response is rejected.
#[derive(Debug)]
enum Problem {
    Listing(String),
    Missing(&'static str),
}

/// Returns the hf-hub client of a repository at a revision.
pub(super) fn repo(settings: &Settings, id: &ModelId, revision: &str) -> Result<ApiRepo, HubError> {
    let api = ApiBuilder::from_cache(Cache::new(settings.cache_dir.clone()))
        .with_endpoint(settings.endpoint.clone())
        .with_token(settings.token.clone())
        .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
        .build()
        .map_err(|error| HubError::Listing { url: settings.endpoint.clone(), problem: error.to_string() })?;
    Ok(api.repo(Repo::with_revision(id.repo().to_owned(), RepoType::Model, revision.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const LFS: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    fn check(answer: &str) -> Result<Listing, String> {
        Listing::check(serde_json::from_str(answer).unwrap(), "main")
            .map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn a_listing_names_sizes_and_hashes() {
        let answer = format!(
            r#"{{"sha": "{COMMIT}", "private": false, "siblings": [
                {{"rfilename": "config.json", "size": 7, "blobId": "{GIT}"}},
                {{"rfilename": "model.safetensors", "size": 9, "blobId": "cd", "lfs": {{"sha256": "{LFS}", "size": 9}}}}]}}"#
        );
        let Listing { commit, files } = check(&answer).unwrap();
        assert_eq!(commit, COMMIT);
        let file = |name: &str, bytes, hash: &str| RemoteFile { name: name.into(), bytes, hash: hash.into() };
        assert_eq!(files, [file("config.json", 7, GIT), file("model.safetensors", 9, LFS)]);
    }

    #[test]
    fn paths_outside_the_cache_are_rejected() {
        let table = [
            (r#"{"sha": "../../etc", "siblings": []}"#.to_owned(), "is not a commit"),
            (
                format!(
                    r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "a", "size": 1, "blobId": "../a"}}]}}"#
                ),
                "invalid hash of",
            ),
            (format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "a"}}]}}"#), "no size or no hash"),
        ];
        for (answer, expected) in table {
            let problem = check(&answer).unwrap_err();
            assert!(problem.contains(expected), "{answer} gave {problem}");
        }
    }
}
