//! The folders of the cache: blobs named by their hash, and snapshots of links to them.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::completeness;
use super::files::RemoteFile;
use super::id::is_commit;
use super::tree;
use super::{HubError, ModelId};

/// The folder of a repository that has the listings of its snapshots. Hugging Face's tools leave it alone.
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

    /// Where the contents of a file are.
    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.repo.blob_path(&file.hash)
    }

    /// Whether a file is there. One that another snapshot has is from now on.
    pub(super) fn has(&self, file: &RemoteFile) -> Result<bool, HubError> {
        let link = self.dir.join(&file.name);
        // The name of a blob is its hash. Where there are no links, the file itself is there.
        let is_another = fs::read_link(&link).is_ok_and(|blob| !blob.ends_with(&file.hash));
        if !is_another && file.is_at(&link) {
            return Ok(true);
        }
        let is_there = file.is_at(&self.blob(file));
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

    /// Keeps the listing that the snapshot is filled by, so that whoever finds it can tell whether it is whole.
    pub(super) fn keep_listing(&self, files: &[RemoteFile]) -> Result<(), HubError> {
        let path = self.listing_path();
        let text = serde_json::to_vec(files).map_err(|error| HubError::of(&path)(error.into()))?;
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(HubError::of(folder))?;
        let part = path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(HubError::of(&path))
    }

    /// The listing that it was filled by; none if another tool has filled it that keeps none.
    fn listing(&self) -> Option<Vec<RemoteFile>> {
        let own = fs::read(self.listing_path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        own.or_else(|| tree::read(&repo_dir(&self.repo), &self.commit))
    }

    fn listing_path(&self) -> PathBuf {
        repo_dir(&self.repo).join(LISTINGS).join(format!("{}.json", self.commit))
    }

    /// Whether all files of the model are there, as far as can be told without the hub.
    pub(super) fn state(&self) -> State {
        let Some(files) = self.listing() else {
            return State::Unlisted { missing: completeness::missing(&self.dir) };
        };
        // The contents were checked when they came.
        let is_there = |file: &&RemoteFile| {
            fs::metadata(self.dir.join(&file.name)).is_ok_and(|metadata| metadata.len() == file.bytes)
        };
        let missing: Vec<_> =
            files.iter().filter(|file| !is_there(file)).map(|file| file.name.clone()).collect();
        if missing.is_empty() { State::Whole } else { State::Partial { missing } }
    }

    /// Lets the revision mean this snapshot.
    pub(super) fn publish(&self, id: &ModelId) -> Result<(), HubError> {
        if id.commit().is_some() {
            return Ok(());
        }
        self.repo.create_ref(&self.commit).map_err(HubError::of(&self.dir))
    }
}

/// Whether a snapshot has all of its files.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All files that the hub has listed are there.
    Whole,
    /// Some of them are not.
    Partial { missing: Vec<String> },
    /// Another tool has filled it, perhaps in part, and left no listing. Empty if nothing is missing that every model has.
    Unlisted { missing: Vec<String> },
}

/// The snapshot that a revision of a model means in the cache, if there is one.
pub(super) fn find(cache_dir: &Path, id: &ModelId) -> Option<Snapshot> {
    let commit = match id.commit() {
        Some(commit) => commit.to_owned(),
        None => {
            let path = repo_dir(&repo(cache_dir, id)).join("refs").join(id.revision());
            fs::read_to_string(path).ok()?.trim().to_owned()
        }
    };
    // It becomes part of a path.
    let snapshot = is_commit(&commit).then(|| Snapshot::new(cache_dir, id, &commit))?;
    snapshot.dir.is_dir().then_some(snapshot)
}

/// The folder of a repository, which has one of blobs.
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
    /// Of `{}`, as git hashes it.
    const HASH: &str = "9e26dfeeb6e641a33dae4961196235bdb965b21b";

    fn config() -> RemoteFile {
        RemoteFile { name: "config.json".to_owned(), bytes: 2, hash: HASH.to_owned() }
    }

    #[test]
    fn a_snapshot_is_whole_when_all_files_of_its_listing_are_there() {
        let cache = tempfile::tempdir().unwrap();
        let id = "a/b".parse().unwrap();
        let snapshot = Snapshot::new(cache.path(), &id, COMMIT);
        assert!(find(cache.path(), &id).is_none());
        fs::create_dir_all(snapshot.dir()).unwrap();
        snapshot.publish(&id).unwrap();
        assert_eq!(find(cache.path(), &id).unwrap().dir(), snapshot.dir());
        assert!(matches!(snapshot.state(), State::Unlisted { .. }));
        snapshot.keep_listing(&[config()]).unwrap();
        let missing = vec!["config.json".to_owned()];
        assert_eq!(snapshot.state(), State::Partial { missing: missing.clone() });
        fs::write(snapshot.dir().join("config.json"), "{}").unwrap();
        assert_eq!(snapshot.state(), State::Whole);
        fs::write(snapshot.dir().join("config.json"), "{").unwrap();
        assert_eq!(snapshot.state(), State::Partial { missing });
    }

    #[test]
    fn a_link_to_another_blob_is_made_anew() {
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
    fn a_ref_that_is_no_commit_leads_nowhere() {
        let cache = tempfile::tempdir().unwrap();
        let id = "a/b".parse().unwrap();
        let snapshot = Snapshot::new(cache.path(), &id, "../../etc");
        snapshot.publish(&id).unwrap();
        assert!(find(cache.path(), &id).is_none());
    }
}
