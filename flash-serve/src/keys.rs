//! API keys.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::error::ServeError;

/// API keys that requests are checked against. Only their hashes are kept.
#[derive(Clone, Default)]
pub struct ApiKeys {
    hashes: Vec<blake3::Hash>,
}

impl ApiKeys {
    /// Reads a file with one key a line. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`ServeError::ReadKeys`], [`ServeError::EmptyKeys`], [`ServeError::InvalidKey`].
    pub fn from_file(path: &Path) -> Result<Self, ServeError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ServeError::ReadKeys { path: path.to_owned(), source })?;
        let mut hashes = Vec::new();
        for (line_idx, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(ServeError::InvalidKey { path: path.to_owned(), line: line_idx + 1 });
            }
            hashes.push(blake3::hash(key.as_bytes()));
        }
        if hashes.is_empty() {
            return Err(ServeError::EmptyKeys { path: path.to_owned() });
        }
        Ok(Self { hashes })
    }

    /// Returns whether there are no keys, so that requests need none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Returns whether `key` is one of the keys, in a time that does not depend on which, or on how much of it is right.
    pub fn contains(&self, key: &str) -> bool {
        let hash = blake3::hash(key.as_bytes());
        // Hashes are compared in constant time, and `fold` does not stop at the first match.
        self.hashes.iter().fold(false, |found, known| found | (*known == hash))
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.hashes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ApiKeys, ServeError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        ApiKeys::from_file(file.path())
    }

    #[test]
    fn only_whole_keys_of_the_file_are_accepted() {
        let keys = read("# team\nsk-one\n\n  sk-two  \n").unwrap();
        assert!(keys.contains("sk-one") && keys.contains("sk-two"));
        for wrong in ["", "sk-", "sk-one ", "sk-onee", "# team"] {
            assert!(!keys.contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_keys_is_rejected() {
        assert!(matches!(read("# none\n"), Err(ServeError::EmptyKeys { .. })));
    }

    #[test]
    fn a_key_that_no_header_can_hold_is_rejected_with_its_line() {
        assert!(matches!(read("sk-a\nsk b\n"), Err(ServeError::InvalidKey { line: 2, .. })));
    }

    #[test]
    fn debug_output_has_no_key() {
        assert_eq!(format!("{:?}", read("sk-secret").unwrap()), "ApiKeys(1)");
    }
}
