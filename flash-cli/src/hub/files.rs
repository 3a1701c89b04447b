//! Which files of a repository a model directory needs.

use flash_convert::COMPANION_FILES;

/// A file as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// The hash of its contents, as git or git-lfs names it.
    pub(super) hash: String,
}

impl RemoteFile {
    /// The hash, if it is that of git-lfs. Git's own has more in it than the contents.
    pub(super) fn sha256(&self) -> Option<&str> {
        (self.hash.len() == SHA256_DIGITS).then_some(&self.hash)
    }
}

const SHA256_DIGITS: usize = 64;
pub(super) const CONFIG: &str = "config.json";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const SHARD_SUFFIX: &str = ".safetensors";
/// What names of weights begin with where there are others that are not the model, or the model once more.
const SHARD_PREFIX: &str = "model";

/// The files that are needed, small ones first; or what is missing.
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
    fn only_what_a_model_directory_needs_is_taken() {
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
    fn weights_of_any_name_are_taken_where_none_has_the_usual_one() {
        let files = ["config.json", "weights.00.safetensors", "weights.01.safetensors"];
        assert_eq!(names(&files).unwrap(), files);
    }

    #[test]
    fn a_repository_without_configuration_or_weights_is_no_model() {
        assert_eq!(names(&["model.safetensors"]), Err("config.json"));
        assert_eq!(names(&["config.json", "model.gguf"]), Err("*.safetensors"));
    }
}
