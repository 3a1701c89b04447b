//! Models and engines for tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use flash_io::IoMode;
use flash_model::{Checkpoint, Compute, Engine, EngineOptions, Model, ModelOptions, Workload};

/// The budget of a test engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The smallest budget that works: all but small weights are streamed.
    Floor,
    /// More than the engine can use: all weights are pinned.
    Plenty,
}

/// All backends of this system.
pub(crate) const COMPUTES: &[Compute] =
    if cfg!(target_os = "linux") { &[Compute::Native, Compute::Mlx] } else { &[Compute::Mlx] };

impl Memory {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Floor => Self::Plenty,
            Self::Plenty => Self::Floor,
        }
    }
}

/// Loads the model in `dir`, for one prompt and `new_tokens` tokens after it.
pub(crate) fn engine(
    dir: &Path,
    memory: Memory,
    io: IoMode,
    prompt_tokens: usize,
    new_tokens: usize,
    compute: impl Into<ModelOptions>,
) -> Engine {
    let context_tokens = prompt_tokens + new_tokens;
    let workload = Workload::new(prompt_tokens, context_tokens);
    let model = Model::open_on(Checkpoint::open(dir, io).unwrap(), compute).unwrap();
    let budget_bytes = match memory {
        Memory::Floor => model.floor_bytes(&workload),
        Memory::Plenty => 1 << 40,
    };
    model.load(&EngineOptions::new(budget_bytes, workload)).unwrap()
}

/// Returns a directory of the demo model: `kept`, `f16`, … If it is missing, prints that the test is skipped, or panics
/// if `FLASH_REQUIRE_MODELS` is 1.
pub(crate) fn demo_model(name: &str) -> Option<PathBuf> {
    let found = model_folders().into_iter().map(|folder| folder.join(name)).find(|dir| dir.is_dir());
    if found.is_none() {
        let reason =
            format!("there is no model {name:?} in FLASH_TEST_MODELS or the cache of `cargo xtask test`");
        assert!(env::var_os("FLASH_REQUIRE_MODELS").is_none_or(|value| value != "1"), "{reason}");
        println!("skipped: {reason}");
    }
    found
}

/// Returns `FLASH_TEST_MODELS`, or else the folders in which `cargo xtask` caches converted models.
fn model_folders() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os("FLASH_TEST_MODELS") {
        return vec![folder.into()];
    }
    let path = |name| env::var_os(name).map(PathBuf::from);
    let user = || path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
    let Some(cache) = path("FLASH_CACHE").or_else(|| Some(user()?.join("flash"))) else { return Vec::new() };
    let entries = fs::read_dir(cache.join("models")).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}
