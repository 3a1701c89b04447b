//! The cache directory of flash: measured disks and kernels, pages of KV caches, and converted GGUF files.

mod kernels;

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use flash_io::{IoMode, Tuning};
use flash_kernels::{Isa, KernelError, KernelTuning};

/// Returns the fastest way to read the disk of a model, measured once per disk.
pub(crate) fn tuning(model_dir: &Path, io: IoMode) -> Tuning {
    let file = dir().map(|dir| dir.join("disks.json"));
    Tuning::find(model_dir, io, file.as_deref())
}

/// Returns the fastest way to run the kernels of `isa`, measured once per processor.
///
/// # Errors
/// [`KernelError::Isa`] if this machine does not have the instruction set.
pub(crate) fn kernels(isa: Isa) -> Result<KernelTuning, KernelError> {
    kernels::find(isa, kernels_file().as_deref())
}

/// Measures again how to run the kernels of `isa`, for later runs, too.
///
/// # Errors
/// [`KernelError::Isa`] if this machine does not have the instruction set.
pub(crate) fn measure_kernels(isa: Isa) -> Result<KernelTuning, KernelError> {
    kernels::measure(isa, kernels_file().as_deref())
}

fn kernels_file() -> Option<PathBuf> {
    dir().map(|dir| dir.join("kernels.json"))
}

/// Returns the default directory of KV pages.
pub(crate) fn kv_dir() -> PathBuf {
    dir().unwrap_or_else(|| std::env::temp_dir().join("flash")).join("kv")
}

/// Returns the directory of converted GGUF files.
pub(crate) fn gguf_dir() -> PathBuf {
    dir().unwrap_or_else(|| std::env::temp_dir().join("flash")).join("gguf")
}

/// Returns `$FLASH_CACHE`, or `flash` in the user's cache directory; none for a user without a home directory.
fn dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("FLASH_CACHE").filter(|dir| !dir.is_empty()) {
        return Some(dir.into());
    }
    let cache = etcetera::choose_base_strategy().ok()?.cache_dir();
    // With an empty HOME the path is relative: the current directory is no cache.
    cache.is_absolute().then(|| cache.join("flash"))
}
