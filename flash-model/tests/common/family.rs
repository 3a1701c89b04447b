//! Committed models, one per family and layout.

use std::path::{Path, PathBuf};

use flash_model::Config;
use serde::Deserialize;

/// Returns the directory of a model, and the size of its vocabulary.
pub(crate) fn family(name: &str) -> (PathBuf, usize) {
    #[derive(Deserialize)]
    struct Args {
        vocab_size: usize,
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name);
    let Args { vocab_size } = Config::open(&dir).unwrap().args().unwrap();
    (dir, vocab_size)
}
