//! Directories of the demo model, made by `cargo xtask test`.

use std::path::PathBuf;
use std::{env, fs};

/// Returns the directory of a variant of the demo model (`kept`, `f16`, …). If there is none, prints the reason to skip
/// the test, or panics if `FLASH_REQUIRE_MODELS` is 1.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let found = folders().into_iter().map(|folder| folder.join(name)).find(|dir| dir.is_dir());
    found.or_else(|| missing(&format!("there is no model {name:?} in FLASH_TEST_MODELS or the cache")))
}

/// Returns the GGUF file of the demo model.
pub(crate) fn gguf() -> Option<PathBuf> {
    let found = env::var_os("FLASH_TEST_GGUF").map(PathBuf::from);
    found.or_else(|| missing("FLASH_TEST_GGUF does not name a GGUF file"))
}

#[expect(clippy::print_stdout, reason = "skipped tests are reported")]
fn missing(reason: &str) -> Option<PathBuf> {
    assert!(env::var_os("FLASH_REQUIRE_MODELS").is_none_or(|value| value != "1"), "{reason}");
    println!("skipped: {reason}");
    None
}

/// Returns `FLASH_TEST_MODELS`, or the directories of `cargo xtask test` in its cache.
fn folders() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os("FLASH_TEST_MODELS") {
        return vec![folder.into()];
    }
    let cache = env::var_os("FLASH_CACHE").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache").join("flash"));
    let Some(cache) = cache.or_else(home) else { return Vec::new() };
    let entries = fs::read_dir(cache.join("models")).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}
