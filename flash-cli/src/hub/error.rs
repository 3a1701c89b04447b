//! Why a model could not be pulled.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::ModelId;
use crate::size::Bytes;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error("there is no home folder for the cache of models: set HF_HOME")]
    NoHome,
    #[error("{name} is {given:?}, and only a ~ by itself is expanded: write that folder in full")]
    OtherHome { name: &'static str, given: String },
    #[error("HF_ENDPOINT is {given:?}, and an address begins with https:// or http://")]
    Endpoint { given: String },
    #[error("{id}: not in the cache {cache_dir}, and {variable} is set")]
    Offline { id: ModelId, cache_dir: PathBuf, variable: &'static str },
    #[error("{id}: {dir} lacks {}, and {variable} is set", names(missing))]
    Incomplete { id: ModelId, dir: PathBuf, missing: Vec<String>, variable: &'static str },
    #[error("{id}: {dir} lacks {}, which cannot be pulled: {error}", names(missing))]
    CannotComplete { id: ModelId, dir: PathBuf, missing: Vec<String>, error: Box<HubError> },
    #[error("{url}: {error}")]
    Request { url: String, error: Box<ureq::Error> },
    #[error("{id}: {endpoint} has no such model")]
    NoModel { id: ModelId, endpoint: String },
    #[error("{id}: the model has no revision {:?}", id.revision())]
    NoRevision { id: ModelId },
    #[error(
        "{id}: access was refused with status {status}: it is private, gated or does not exist{}",
        if *has_token { ", or the token may not read it" } else { "; set HF_TOKEN if you may read it" }
    )]
    Refused { id: ModelId, status: u16, has_token: bool },
    #[error("{url}: the server answered with status {status}")]
    Status { url: String, status: u16 },
    #[error(
        "{url}: the server answered with status {status} and asks to wait {} s: pull again then, it resumes",
        wait.as_secs()
    )]
    Busy { url: String, status: u16, wait: Duration },
    #[error("{url}: the answer is not a listing of files: {problem}")]
    Listing { url: String, problem: String },
    #[error("{id}: the repository has no {wanted} at its top, so it is not a model that can be run")]
    NotAModel { id: ModelId, wanted: &'static str },
    #[error("{url}: wanted {wanted_bytes} B as listed, but the server has {found_bytes} B")]
    Size { url: String, wanted_bytes: u64, found_bytes: u64 },
    #[error("{url}: what came does not have the hash that is listed; it was removed, so pull once more")]
    Contents { url: String },
    #[error("{url}: the server gives a Git LFS pointer instead of the file")]
    LfsPointer { url: String },
    #[error("{url}: cut off {n_attempts} times at {done_bytes} of {wanted_bytes} B: {reason}")]
    Cut { url: String, n_attempts: u32, done_bytes: u64, wanted_bytes: u64, reason: String },
    #[error(
        "{dir}: {needed} are needed, but the disk has only {free} left",
        needed = Bytes(*needed_bytes), free = Bytes(*free_bytes)
    )]
    NoSpace { dir: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("{path}: {error}")]
    Cache { path: PathBuf, error: io::Error },
}

impl HubError {
    /// An error that goes on as one of the cache, with its path.
    pub(super) fn of(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Cache { path: path.into(), error }
    }
}

/// The first of so many names are told.
const NAMES_MAX: usize = 5;

fn names(names: &[String]) -> String {
    let told = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => told,
        n_more => format!("{told} and {n_more} more files"),
    }
}
