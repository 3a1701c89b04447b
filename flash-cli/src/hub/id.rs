//! Ids of models: `ORG/NAME`, or `ORG/NAME@REVISION`.

use std::fmt;
use std::str::FromStr;

/// The branch that a repository is seen at unless someone says.
const MAIN: &str = "main";

/// A model on the hub, at a revision: a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelId {
    repo: String,
    revision: String,
    is_revision_said: bool,
}

/// What is no id.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdError {
    #[error("{given:?} is not the id of a model: ORG/NAME or ORG/NAME@REVISION")]
    Id { given: String },
    #[error("{given:?} is not the name of a revision")]
    Revision { given: String },
    #[error("{id} names a revision already, so --revision {given} is one too many")]
    Twice { id: ModelId, given: String },
}

impl ModelId {
    /// `ORG/NAME`.
    pub(crate) fn repo(&self) -> &str {
        &self.repo
    }

    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    /// The commit, if the revision is the whole name of one.
    pub(crate) fn commit(&self) -> Option<&str> {
        is_commit(&self.revision).then_some(&self.revision)
    }

    /// The same model at a revision that is named elsewhere.
    pub(crate) fn at(self, revision: String) -> Result<Self, IdError> {
        if self.is_revision_said {
            return Err(IdError::Twice { id: self, given: revision });
        }
        if !is_revision(&revision) {
            return Err(IdError::Revision { given: revision });
        }
        Ok(Self { revision, is_revision_said: true, ..self })
    }
}

impl FromStr for ModelId {
    type Err = IdError;

    fn from_str(given: &str) -> Result<Self, IdError> {
        let no_id = || IdError::Id { given: given.to_owned() };
        let (repo, revision) = given.split_once('@').map_or((given, None), |(repo, at)| (repo, Some(at)));
        let (org, name) = repo.split_once('/').ok_or_else(no_id)?;
        if !is_word(org) || !is_word(name) || revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(no_id());
        }
        Ok(Self {
            repo: repo.to_owned(),
            revision: revision.unwrap_or(MAIN).to_owned(),
            is_revision_said: revision.is_some(),
        })
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repo, revision, is_revision_said } = self;
        if *is_revision_said { write!(f, "{repo}@{revision}") } else { f.write_str(repo) }
    }
}

/// Whether it is the whole name of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_word(word: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(is_known)
}

/// Branches may have slashes. They become paths below the cache and must not leave it.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_an_owner_and_a_name() {
        for id in ["HuggingFaceTB/SmolLM2-135M", "a/b.c_d", "a/b@v1.0", "a/b@refs/pr/3"] {
            assert_eq!(id.parse::<ModelId>().unwrap().to_string(), id);
        }
        let paths =
            ["model", "/a/b", "./a", "../a", "a/b/c", "a/", "~/a", "a b/c", "a/b@", "a/b@../c", "a/b@/c"];
        for path in paths {
            assert!(path.parse::<ModelId>().is_err(), "{path}");
        }
    }

    #[test]
    fn a_revision_is_main_unless_it_is_said_once() {
        let id: ModelId = "a/b".parse().unwrap();
        assert_eq!((id.repo(), id.revision(), id.commit()), ("a/b", "main", None));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let id = id.at(commit.to_owned()).unwrap();
        assert_eq!((id.revision(), id.commit()), (commit, Some(commit)));
        assert!(matches!(id.at("v1".to_owned()), Err(IdError::Twice { .. })));
        let id: ModelId = "a/b".parse().unwrap();
        assert!(matches!(id.at("../v1".to_owned()), Err(IdError::Revision { .. })));
    }
}
