//! Tiny tokenizers as model directories.

use std::fs;
use std::path::Path;

use flash_text::Tokenizer;
use tempfile::TempDir;

/// Directory of the tokenizers and of the tokenizers package's results.
pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers");

/// Creates a model directory with the tokenizer of a kind and no other files.
pub(crate) fn dir_of(kind: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(Path::new(FOLDER).join(format!("{kind}.json")), dir.path().join("tokenizer.json")).unwrap();
    dir
}

/// Opens the tokenizer of a kind.
pub(crate) fn open(kind: &str) -> Tokenizer {
    Tokenizer::open(dir_of(kind).path()).unwrap()
}
