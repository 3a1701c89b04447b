//! What is kept between runs.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use flash_io::{IoMode, Tuning};

/// How the disk of a model is best read. It is found out once for each disk.
pub(crate) fn tuning(model_dir: &Path, io: IoMode) -> Tuning {
    let file = folder().map(|folder| folder.join("disks.json"));
    Tuning::find(model_dir, io, file.as_deref())
}

/// Where pages of keys and values go, unless someone says.
pub(crate) fn kv_dir() -> PathBuf {
    folder().unwrap_or_else(|| std::env::temp_dir().join("flash")).join("kv")
}

/// `$FLASH_CACHE`, or `flash` in the user's cache folder; none for a user without a home.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("FLASH_CACHE").filter(|folder| !folder.is_empty()) {
        return Some(folder.into());
    }
    let cache = etcetera::choose_base_strategy().ok()?.cache_dir();
    // An empty HOME leaves no folder of a user, and the current one is none.
    cache.is_absolute().then(|| cache.join("flash"))
}
