//! Layout of the cache: blobs named by their hash, and snapshots that are directories of links to blobs.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::completeness;
use super::error::HubError;
use super::files::RemoteFile;
use super::id::{ModelId, is_commit};
use super::tree;

/// Directory in a repository for the file listings of its snapshots. Hugging Face's tools ignore it.
const LISTINGS: &str = ".flash";

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

    /// Returns the path of the contents of a file.
    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.repo.blob_path(&file.hash)
    }

    /// Whether the snapshot has a file. Links the file first if another snapshot has its blob.
    pub(super) fn has(&self, file: &RemoteFile) -> Result<bool, HubError> {
        let link = self.dir.join(&file.name);
        // Blobs are named by their hash. On a file system without links, the snapshot has the file itself.
        let is_other_blob = fs::read_link(&link).is_ok_and(|blob| !blob.ends_with(&file.hash));
        if !is_other_blob && file.is_at(&link) {
            return Ok(true);
        }
        let has_blob = file.is_at(&self.blob(file));
        if has_blob {
            self.link(file)?;
        }
        Ok(has_blob)
    }

    /// Links the blob of a file into the snapshot.
    pub(super) fn link(&self, file: &RemoteFile) -> Result<(), HubError> {
        let link = self.dir.join(&file.name);
        fs::create_dir_all(&self.dir).map_err(HubError::in_cache(&self.dir))?;
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::in_cache(link)(error));
            }
            _ => {}
        }
        let blob = Path::new("../../blobs").join(&file.hash);
        match symlink(blob, &link) {
            // Another process may be downloading the same model.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(HubError::in_cache(link)(error))
            }
            _ => Ok(()),
        }
    }

    /// Saves the file listing of the snapshot, by which later runs can tell whether it is complete.
    pub(super) fn keep_listing(&self, files: &[RemoteFile]) -> Result<(), HubError> {
        let path = self.listing_path();
        let text = serde_json::to_vec(files).map_err(|error| HubError::in_cache(&path)(error.into()))?;
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(HubError::in_cache(folder))?;
        let part = path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(HubError::in_cache(&path))
    }

    /// Reads the file listing of the snapshot; none if another tool downloaded it and left no listing.
    fn listing(&self) -> Option<Vec<RemoteFile>> {
        let own = fs::read(self.listing_path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        own.or_else(|| tree::read(&repo_dir(&self.repo), &self.commit))
    }

    fn listing_path(&self) -> PathBuf {
        repo_dir(&self.repo).join(LISTINGS).join(format!("{}.json", self.commit))
    }

    /// Returns whether all files of the model are present, as far as can be told offline.
    pub(super) fn state(&self) -> SnapshotState {
        let Some(files) = self.listing() else {
            return SnapshotState::Unlisted { missing: completeness::missing(&self.dir) };
        };
        // Only sizes are compared: hashes were verified on download.
        let is_present = |file: &&RemoteFile| {
            fs::metadata(self.dir.join(&file.name)).is_ok_and(|metadata| metadata.len() == file.bytes)
        };
        let missing: Vec<_> =
            files.iter().filter(|file| !is_present(file)).map(|file| file.name.clone()).collect();
        if missing.is_empty() { SnapshotState::Complete } else { SnapshotState::Partial { missing } }
    }

    /// Points the revision at this snapshot.
    pub(super) fn publish(&self, id: &ModelId) -> Result<(), HubError> {
        if id.commit().is_some() {
            return Ok(());
        }
        self.repo.create_ref(&self.commit).map_err(HubError::in_cache(&self.dir))
    }
}

/// Completeness of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SnapshotState {
    /// All listed files are present.
    Complete,
    /// Some listed files are missing.
    Partial { missing: Vec<String> },
    /// Downloaded, perhaps in part, by another tool that left no listing. `missing` are absent files that every model
    /// has.
    Unlisted { missing: Vec<String> },
}

/// Returns the snapshot of a model's revision, if it is in the cache.
pub(super) fn find(cache_dir: &Path, id: &ModelId) -> Option<Snapshot> {
    let commit = match id.commit() {
        Some(commit) => commit.to_owned(),
        None => {
            let path = repo_dir(&repo(cache_dir, id)).join("refs").join(id.revision());
            fs::read_to_string(path).ok()?.trim().to_owned()
        }
    };
    // The commit becomes part of a path.
    let snapshot = is_commit(&commit).then(|| Snapshot::new(cache_dir, id, &commit))?;
    snapshot.dir.is_dir().then_some(snapshot)
}

/// Returns the directory of a repository, the parent of its `blobs` directory.
fn repo_dir(repo: &CacheRepo) -> PathBuf {
    let blob = repo.blob_path("blob");
    blob.ancestors().nth(2).unwrap_or(&blob).to_owned()
}

fn repo(cache_dir: &Path, id: &ModelId) -> CacheRepo {
    let repo = Repo::with_revision(id.repo().to_owned(), RepoType::Model, id.revision().to_owned());
    Cache::new(cache_dir.to_owned()).repo(repo)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    /// Git blob hash of `{}`.
    const HASH: &str = "9e26dfeeb6e641a33dae4961196235bdb965b21b";

    fn config() -> RemoteFile {
        RemoteFile { name: "config.json".to_owned(), bytes: 2, hash: HASH.to_owned() }
    }

    #[test]
    fn a_snapshot_is_complete_when_all_listed_files_are_present() {
        let cache = tempfile::tempdir().unwrap();
        let id = "a/b".parse().unwrap();
        let snapshot = Snapshot::new(cache.path(), &id, COMMIT);
        assert!(find(cache.path(), &id).is_none());
        fs::create_dir_all(snapshot.dir()).unwrap();
        snapshot.publish(&id).unwrap();
        assert_eq!(find(cache.path(), &id).unwrap().dir(), snapshot.dir());
        assert!(matches!(snapshot.state(), SnapshotState::Unlisted { .. }));
        snapshot.keep_listing(&[config()]).unwrap();
        let missing = vec!["config.json".to_owned()];
        assert_eq!(snapshot.state(), SnapshotState::Partial { missing: missing.clone() });
        fs::write(snapshot.dir().join("config.json"), "{}").unwrap();
        assert_eq!(snapshot.state(), SnapshotState::Complete);
        fs::write(snapshot.dir().join("config.json"), "{").unwrap();
        assert_eq!(snapshot.state(), SnapshotState::Partial { missing });
    }

    #[test]
    fn a_link_to_another_blob_is_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::new(cache.path(), &"a/b".parse().unwrap(), COMMIT);
        let blob = snapshot.blob(&config());
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(blob.with_file_name("other"), "[]").unwrap();
        snapshot.link(&RemoteFile { hash: "other".to_owned(), ..config() }).unwrap();
        assert!(!snapshot.has(&config()).unwrap(), "a file of the same size that is another");
        fs::write(&blob, "{}").unwrap();
        assert!(snapshot.has(&config()).unwrap());
        assert_eq!(fs::read_to_string(snapshot.dir().join("config.json")).unwrap(), "{}");
        fs::write(&blob, "[]").unwrap();
        assert!(!snapshot.has(&config()).unwrap(), "a blob whose contents are not those of its name");
    }

    #[test]
    fn a_ref_that_is_not_a_commit_is_ignored() {
        let cache = tempfile::tempdir().unwrap();
        let id = "a/b".parse().unwrap();
        let snapshot = Snapshot::new(cache.path(), &id, "../../etc");
        snapshot.publish(&id).unwrap();
        assert!(find(cache.path(), &id).is_none());
    }
}
