//! Finds missing files of a model directory without a listing from the hub.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::files::{CONFIG, INDEX, SHARD_SUFFIX};

/// Marks the name of a shard that is one of several.
const ONE_OF: &str = "-of-";
/// Tokenizer files, one of which must be present; the first is reported if all are missing.
const VOCABULARIES: [&str; 3] = ["tokenizer.json", "tokenizer.model", "vocab.json"];

/// Returns the names of required files that `dir` lacks.
pub(super) fn missing(dir: &Path) -> Vec<String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let is_there = |name: &str| dir.join(name).exists();
    let mut missing = Vec::new();
    if !is_there(CONFIG) {
        missing.push(CONFIG.to_owned());
    }
    if !VOCABULARIES.into_iter().any(is_there) {
        missing.push(VOCABULARIES[0].to_owned());
    }
    if let Ok(index) = fs::read(dir.join(INDEX)) {
        match serde_json::from_slice(&index) {
            Ok(Index { weight_map }) => {
                let shards: BTreeSet<String> = weight_map.into_values().collect();
                missing.extend(shards.into_iter().filter(|shard| !is_there(shard)));
            }
            Err(_) => missing.push(INDEX.to_owned()),
        }
        return missing;
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let shards: Vec<_> = names.filter(|name| name.ends_with(SHARD_SUFFIX) && is_there(name)).collect();
    if shards.is_empty() {
        missing.push(format!("*{SHARD_SUFFIX}"));
    } else if shards.iter().any(|shard| shard.contains(ONE_OF)) {
        missing.push(INDEX.to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_shard_of_the_index_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        write(one, "");
        assert_eq!(
            missing(dir),
            [CONFIG, "tokenizer.json", INDEX],
            "one of several, and no index names the others"
        );
        write(CONFIG, "{}");
        write("tokenizer.model", "");
        write(INDEX, &format!(r#"{{"weight_map": {{"a": "{one}", "b": "{two}"}}}}"#));
        assert_eq!(missing(dir), [two]);
        write(two, "");
        assert_eq!(missing(dir), [""; 0]);
        write(INDEX, "{");
        assert_eq!(missing(dir), [INDEX], "the index is torn");
    }

    #[test]
    fn a_single_shard_needs_no_index_and_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        assert_eq!(missing(dir.path()), ["*.safetensors"]);
        symlink("gone", dir.path().join("model.safetensors")).unwrap();
        assert_eq!(missing(dir.path()), ["*.safetensors"], "the link leads nowhere");
        fs::write(dir.path().join("gone"), "").unwrap();
        assert_eq!(missing(dir.path()), [""; 0]);
    }
}
