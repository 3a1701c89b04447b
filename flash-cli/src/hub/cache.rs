//! The folders of the cache: blobs named by their hash, and snapshots of links to them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Deserialize;

use super::files::{CONFIG, INDEX, RemoteFile};
use super::{HubError, ModelId};

/// What the name of a shard has in it that is one of several.
const ONE_OF: &str = "-of-";

/// The files of a model at a commit.
#[derive(Debug)]
pub(super) struct Snapshot {
    repo: CacheRepo,
    dir: PathBuf,
    commit: String,
}

impl Snapshot {
    pub(super) fn new(cache_dir: &Path, id: &ModelId, commit: &str) -> Self {
        let repo = repo(cache_dir, id);
        Self { dir: repo.pointer_path(commit), repo, commit: commit.to_owned() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn commit(&self) -> &str {
        &self.commit
    }

    /// Where the contents of a file are.
    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.repo.blob_path(&file.hash)
    }

    /// Whether a file is there. One that another snapshot has is from now on.
    pub(super) fn has(&self, file: &RemoteFile) -> Result<bool, HubError> {
        let is_whole = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.len() == file.bytes);
        if is_whole(&self.dir.join(&file.name)) {
            return Ok(true);
        }
        let is_there = is_whole(&self.blob(file));
        if is_there {
            self.link(file)?;
        }
        Ok(is_there)
    }

    /// Gives a blob that is there its name.
    pub(super) fn link(&self, file: &RemoteFile) -> Result<(), HubError> {
        let link = self.dir.join(&file.name);
        fs::create_dir_all(&self.dir).map_err(HubError::of(&self.dir))?;
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(HubError::of(link)(error)),
            _ => {}
        }
        let blob = Path::new("../../blobs").join(&file.hash);
        match symlink(blob, &link) {
            // Someone else pulls the same.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(HubError::of(link)(error)),
            _ => Ok(()),
        }
    }

    /// Lets the revision mean this snapshot.
    pub(super) fn publish(&self, id: &ModelId) -> Result<(), HubError> {
        if id.commit().is_some() {
            return Ok(());
        }
        self.repo.create_ref(&self.commit).map_err(HubError::of(&self.dir))
    }
}

/// The directory of a model, if it is there as a whole.
pub(super) fn find(cache_dir: &Path, id: &ModelId) -> Option<PathBuf> {
    let repo = repo(cache_dir, id);
    let dir = match id.commit() {
        Some(commit) => repo.pointer_path(commit),
        None => repo.get(CONFIG)?.parent()?.to_owned(),
    };
    is_whole(&dir).then_some(dir)
}

fn repo(cache_dir: &Path, id: &ModelId) -> CacheRepo {
    let repo = Repo::with_revision(id.repo().to_owned(), RepoType::Model, id.revision().to_owned());
    Cache::new(cache_dir.to_owned()).repo(repo)
}

/// Other tools make a revision known before all of its files are there.
fn is_whole(dir: &Path) -> bool {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    if !dir.join(CONFIG).exists() {
        return false;
    }
    if let Ok(index) = fs::read(dir.join(INDEX)) {
        let Ok(Index { weight_map }) = serde_json::from_slice(&index) else { return false };
        let shards: HashSet<String> = weight_map.into_values().collect();
        return shards.iter().all(|shard| dir.join(shard).exists());
    }
    let mut shards = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("safetensors")) && path.exists())
        .peekable();
    let is_one_of_many = |path: &PathBuf| path.to_string_lossy().contains(ONE_OF);
    shards.peek().is_some() && !shards.any(|path| is_one_of_many(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_whole_with_its_configuration_and_all_of_its_shards() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        write(one, "");
        assert!(!is_whole(dir), "there is no configuration");
        write(CONFIG, "{}");
        assert!(!is_whole(dir), "one of two is there, and no index says so");
        write(INDEX, &format!(r#"{{"weight_map": {{"a": "{one}", "b": "{two}"}}}}"#));
        assert!(!is_whole(dir), "one of two is there");
        write(two, "");
        assert!(is_whole(dir));
        write(INDEX, "{");
        assert!(!is_whole(dir), "the index is torn");
    }

    #[test]
    fn a_snapshot_of_one_shard_needs_no_index() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        assert!(!is_whole(dir.path()));
        symlink("gone", dir.path().join("model.safetensors")).unwrap();
        assert!(!is_whole(dir.path()), "the link leads nowhere");
        fs::write(dir.path().join("gone"), "").unwrap();
        assert!(is_whole(dir.path()));
    }
}
