//! Model ids: `ORG/NAME`, or `ORG/NAME@REVISION`.

use std::fmt;
use std::str::FromStr;

/// The default revision.
const MAIN: &str = "main";

/// A model on the hub, at a revision: a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelId {
    repo: String,
    revision: String,
    has_revision: bool,
}

/// Why a model id is rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdError {
    #[error("{given:?} is not a model id: expected ORG/NAME or ORG/NAME@REVISION")]
    Id { given: String },
    #[error("{given:?} is not a valid revision")]
    Revision { given: String },
    #[error("{id} already has a revision and cannot be combined with --revision {given}")]
    DuplicateRevision { id: ModelId, given: String },
}

impl ModelId {
    /// Returns the repository, `ORG/NAME`.
    pub(crate) fn repo(&self) -> &str {
        &self.repo
    }

    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns the revision if it is a full commit hash.
    pub(crate) fn commit(&self) -> Option<&str> {
        is_commit(&self.revision).then_some(&self.revision)
    }

    /// Sets the revision of an id that has none.
    pub(crate) fn with_revision(self, revision: String) -> Result<Self, IdError> {
        if self.has_revision {
            return Err(IdError::DuplicateRevision { id: self, given: revision });
        }
        if !is_revision(&revision) {
            return Err(IdError::Revision { given: revision });
        }
        Ok(Self { revision, has_revision: true, ..self })
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
            has_revision: revision.is_some(),
        })
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repo, revision, has_revision } = self;
        if *has_revision { write!(f, "{repo}@{revision}") } else { f.write_str(repo) }
    }
}

/// Whether a text is a full commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_word(word: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(is_known)
}

/// Whether a text is a valid revision. Branches may contain slashes, and become paths that must stay below the cache.
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
    fn a_revision_is_main_unless_given_once() {
        let id: ModelId = "a/b".parse().unwrap();
        assert_eq!((id.repo(), id.revision(), id.commit()), ("a/b", "main", None));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let id = id.with_revision(commit.to_owned()).unwrap();
        assert_eq!((id.revision(), id.commit()), (commit, Some(commit)));
        assert!(matches!(id.with_revision("v1".to_owned()), Err(IdError::DuplicateRevision { .. })));
        let id: ModelId = "a/b".parse().unwrap();
        assert!(matches!(id.with_revision("../v1".to_owned()), Err(IdError::Revision { .. })));
    }
}
