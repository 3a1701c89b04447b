//! Model directories to test with, and engines over them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use flash_io::{IoMode, ReaderConfig};
use flash_model::{Checkpoint, Engine, EngineOptions, Model, ModelError, Workload};

/// How much memory an engine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The least it can work with: all but small weights are streamed.
    Floor,
    /// More than it can use: everything is pinned.
    Plenty,
}

impl Memory {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Floor => Self::Plenty,
            Self::Plenty => Self::Floor,
        }
    }
}

/// An engine over the model in `dir`, for one prompt and what follows it.
pub(crate) fn engine(
    dir: &Path,
    memory: Memory,
    io: IoMode,
    prompt_tokens: usize,
    new_tokens: usize,
) -> Engine {
    let context_tokens = prompt_tokens + new_tokens;
    let workload = Workload { prompt_tokens, context_tokens, prefetch: true };
    loop {
        let model = Model::open(Checkpoint::open(dir, io).unwrap()).unwrap();
        let budget_bytes = match memory {
            Memory::Floor => model.floor_bytes(&workload),
            Memory::Plenty => 1 << 40,
        };
        let reader = ReaderConfig::default();
        match model.load(&EngineOptions { budget_bytes, workload, reader, read_rate: None }) {
            Ok(engine) => return engine,
            // The floor counts the memory of the process, and another test has taken some since it was asked for.
            Err(ModelError::BelowFloor { .. }) if memory == Memory::Floor => {}
            Err(error) => panic!("{}: {error}", dir.display()),
        }
    }
}

/// The folder of the demo model's directories: `FLASH_TEST_MODELS`, or where `cargo xtask` keeps them. Without it the
/// caller is to skip its test; but with `FLASH_REQUIRE_MODELS=1` that is a failure.
pub(crate) fn demo_models() -> Option<PathBuf> {
    let folder = env::var_os("FLASH_TEST_MODELS").map(PathBuf::from).or_else(cached_models);
    if let Some(folder) = folder.filter(|folder| folder.is_dir()) {
        return Some(folder);
    }
    assert_ne!(env::var_os("FLASH_REQUIRE_MODELS"), Some("1".into()), "FLASH_TEST_MODELS names no folder");
    None
}

/// `cargo xtask` keeps the models of one version of the converter, in a folder named after it.
fn cached_models() -> Option<PathBuf> {
    let cache = match env::var_os("FLASH_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => match env::var_os("XDG_CACHE_HOME") {
            Some(base) => Path::new(&base).join("flash"),
            None => Path::new(&env::var_os("HOME")?).join(".cache/flash"),
        },
    };
    let mut folders = fs::read_dir(cache.join("models")).ok()?;
    Some(folders.next()?.ok()?.path())
}
