//! Files of a repository, and the selection of those that a model directory needs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use flash_convert::COMPANION_FILES;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A file in a listing of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Hash of the contents, by git or Git LFS.
    pub(super) hash: String,
}

impl RemoteFile {
    /// Whether `path` is this file: its size matches and, for files outside Git LFS, its hash.
    ///
    /// The hash of weights is verified on download only, because it takes minutes.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.bytes)
            && (self.hash.len() != GIT_DIGITS || self.has_hash(path).unwrap_or(false))
    }

    /// Whether the contents of `path` have the listed hash.
    ///
    /// Files in Git LFS are listed with their SHA-256, all others with their git blob hash: a SHA-1 of length and
    /// contents.
    pub(super) fn has_hash(&self, path: &Path) -> io::Result<bool> {
        let mut contents = File::open(path)?;
        let found = match self.hash.len() {
            SHA256_DIGITS => {
                let mut hasher = Sha256::new();
                io::copy(&mut contents, &mut hasher)?;
                format!("{:x}", hasher.finalize())
            }
            _ => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {}\0", contents.metadata()?.len()));
                io::copy(&mut contents, &mut hasher)?;
                format!("{:x}", hasher.finalize())
            }
        };
        Ok(found.eq_ignore_ascii_case(&self.hash))
    }
}

/// Whether a text has the format of a file hash.
pub(super) fn is_hash(text: &str) -> bool {
    matches!(text.len(), GIT_DIGITS | SHA256_DIGITS) && text.chars().all(|c| c.is_ascii_hexdigit())
}

const SHA256_DIGITS: usize = 64;
const GIT_DIGITS: usize = 40;
pub(super) const CONFIG: &str = "config.json";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const SHARD_SUFFIX: &str = ".safetensors";
/// Usual prefix of weight files. Others beside them are not the model, or a second copy of it.
const SHARD_PREFIX: &str = "model";

/// Selects the files that a model directory needs, small ones first.
///
/// # Errors
/// The name of a required file that is missing.
pub(super) fn needed(files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, &'static str> {
    let is_shard = |file: &RemoteFile| file.name.ends_with(SHARD_SUFFIX) && !file.name.contains('/');
    let is_small = |file: &RemoteFile| {
        let name = file.name.as_str();
        name == CONFIG || name == INDEX || COMPANION_FILES.contains(&name)
    };
    let (shards, others): (Vec<_>, Vec<_>) = files.into_iter().partition(is_shard);
    let mut needed: Vec<_> = others.into_iter().filter(is_small).collect();
    if !needed.iter().any(|file| file.name == CONFIG) {
        return Err(CONFIG);
    }
    if shards.is_empty() {
        return Err("*.safetensors");
    }
    let is_usual = |file: &RemoteFile| file.name.starts_with(SHARD_PREFIX);
    let is_any_usual = shards.iter().any(is_usual);
    needed.extend(shards.into_iter().filter(|file| !is_any_usual || is_usual(file)));
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> Result<Vec<String>, &'static str> {
        let file = |name: &&str| RemoteFile { name: (*name).to_owned(), bytes: 1, hash: "0".to_owned() };
        Ok(needed(files.iter().map(file).collect())?.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn a_file_is_known_by_the_hash_of_git_or_of_git_lfs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "hello\n").unwrap();
        // From `git hash-object` and `sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let lfs = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for hash in [git, lfs] {
            let file = RemoteFile { name: "a".to_owned(), bytes: 6, hash: hash.to_owned() };
            assert!(is_hash(hash) && file.has_hash(&path).unwrap() && file.is_at(&path), "{hash}");
        }
        let file = RemoteFile { name: "a".to_owned(), bytes: 6, hash: git.to_owned() };
        fs::write(&path, "hallo\n").unwrap();
        assert!(!file.has_hash(&path).unwrap() && !file.is_at(&path));
        assert!(!is_hash("../a") && !is_hash(""));
    }

    #[test]
    fn only_files_that_a_model_needs_are_selected() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "consolidated.safetensors",
            "model.safetensors.index.json",
            "original/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        let needed = [
            "config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(names(&files).unwrap(), needed);
    }

    #[test]
    fn weights_of_any_name_are_selected_if_none_has_the_usual_prefix() {
        let files = ["config.json", "weights.00.safetensors", "weights.01.safetensors"];
        assert_eq!(names(&files).unwrap(), files);
    }

    #[test]
    fn a_repository_without_configuration_or_weights_is_rejected() {
        assert_eq!(names(&["model.safetensors"]), Err("config.json"));
        assert_eq!(names(&["config.json", "model.gguf"]), Err("*.safetensors"));
    }
}
