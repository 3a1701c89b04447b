//! Errors of downloads.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::id::ModelId;
use crate::size::Bytes;

/// Why a model could not be found or downloaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error("no home directory for the model cache: set HF_HOME")]
    NoHome,
    #[error("{name} is {given:?}: only a plain ~ is expanded, not ~USER; use an absolute path")]
    UnexpandedTilde { name: &'static str, given: String },
    #[error("HF_ENDPOINT is {given:?}: expected a URL that starts with https:// or http://")]
    Endpoint { given: String },
    #[error("{id}: not in the cache {cache_dir}, and {variable} is set")]
    Offline { id: ModelId, cache_dir: PathBuf, variable: &'static str },
    #[error("{id}: {dir} lacks {}, and {variable} is set", names(missing))]
    Incomplete { id: ModelId, dir: PathBuf, missing: Vec<String>, variable: &'static str },
    #[error("{id}: {dir} lacks {}, and the download failed: {error}", names(missing))]
    CannotComplete { id: ModelId, dir: PathBuf, missing: Vec<String>, error: Box<HubError> },
    #[error("{url}: {error}")]
    Request { url: String, error: Box<ureq::Error> },
    #[error("{id}: no such model at {endpoint}")]
    NoModel { id: ModelId, endpoint: String },
    #[error("{id}: the model has no revision {:?}", id.revision())]
    NoRevision { id: ModelId },
    #[error(
        "{id}: access denied with status {status}: the model is private, gated or does not exist{}",
        if *has_token { ", or the token has no access to it" } else { "; set HF_TOKEN if you have access" }
    )]
    Refused { id: ModelId, status: u16, has_token: bool },
    #[error("{url}: the server answered with status {status}")]
    Status { url: String, status: u16 },
    #[error(
        "{url}: the server answered with status {status} and asks to wait {} s: try again then, downloads resume",
        wait.as_secs()
    )]
    Busy { url: String, status: u16, wait: Duration },
    #[error("{url}: invalid file listing: {problem}")]
    Listing { url: String, problem: String },
    #[error("{id}: not a supported model: the repository has no {wanted} at its top level")]
    NotAModel { id: ModelId, wanted: &'static str },
    #[error("{url}: wanted {wanted_bytes} B as listed, but the server has {found_bytes} B")]
    Size { url: String, wanted_bytes: u64, found_bytes: u64 },
    #[error("{url}: hash mismatch with the listing; the file was removed, download it again")]
    Contents { url: String },
    #[error("{url}: the server sent a Git LFS pointer instead of the file")]
    LfsPointer { url: String },
    #[error("{url}: interrupted {n_attempts} times at {done_bytes} of {wanted_bytes} B: {reason}")]
    Cut { url: String, n_attempts: u32, done_bytes: u64, wanted_bytes: u64, reason: String },
    #[error(
        "{dir}: not enough disk space: {needed} needed, {free} free",
        needed = Bytes(*needed_bytes), free = Bytes(*free_bytes)
    )]
    NoSpace { dir: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("{path}: {error}")]
    Cache { path: PathBuf, error: io::Error },
}

impl HubError {
    /// Returns a closure that wraps an I/O error of the cache with its path.
    pub(super) fn in_cache(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Cache { path: path.into(), error }
    }
}

/// Names listed in an error message; further ones are only counted.
const NAMES_MAX: usize = 5;

fn names(names: &[String]) -> String {
    let listed = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => listed,
        n_more => format!("{listed} and {n_more} more files"),
    }
}
