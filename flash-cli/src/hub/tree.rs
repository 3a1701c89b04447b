//! File listings of `huggingface_hub` since version 2: `trees/COMMIT.json` in the directory of a repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::files::{self, RemoteFile};

const FOLDER: &str = "trees";
const VERSION: u32 = 1;

#[derive(Debug, Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    size: u64,
    blob_id: String,
    lfs_sha256: Option<String>,
}

/// Reads the files of a commit that a model directory needs; none if there is no listing, or one of another version.
pub(super) fn read(repo_dir: &Path, commit: &str) -> Option<Vec<RemoteFile>> {
    let text = fs::read(repo_dir.join(FOLDER).join(format!("{commit}.json"))).ok()?;
    let Tree { format_version, files } = serde_json::from_slice(&text).ok()?;
    if format_version != VERSION {
        return None;
    }
    let file = |(name, entry): (String, Entry)| {
        let Entry { size: bytes, blob_id, lfs_sha256 } = entry;
        let hash = lfs_sha256.unwrap_or(blob_id);
        files::is_hash(&hash).then_some(RemoteFile { name, bytes, hash })
    };
    files::needed(files.into_iter().map(file).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const LFS: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[test]
    fn a_tree_lists_what_a_model_needs() {
        let dir = tempfile::tempdir().unwrap();
        let write = |version: u32, hash: &str| {
            // The format of huggingface_hub 2.4.
            let text = format!(
                r#"{{"format_version": {version}, "files": {{
                    "README.md": {{"size": 3, "blob_id": "{GIT}"}},
                    "config.json": {{"size": 7, "blob_id": "{hash}"}},
                    "model.safetensors": {{"size": 9, "blob_id": "{GIT}", "lfs_sha256": "{LFS}", "lfs_size": 9}}}}}}"#
            );
            fs::create_dir_all(dir.path().join(FOLDER)).unwrap();
            fs::write(dir.path().join(FOLDER).join("c0.json"), text).unwrap();
            read(dir.path(), "c0")
        };
        assert_eq!(read(dir.path(), "c0"), None);
        let file = |name: &str, bytes, hash: &str| RemoteFile { name: name.into(), bytes, hash: hash.into() };
        assert_eq!(write(1, GIT), Some(vec![file("config.json", 7, GIT), file("model.safetensors", 9, LFS)]));
        assert_eq!((write(2, GIT), write(1, "../x")), (None, None));
    }
}
