//! Directory layout of a prepared native MLX.

use std::path::PathBuf;

/// A directory with a prepared native MLX.
pub struct Native {
    pub dir: PathBuf,
}

impl Native {
    /// Returns the directory of MLX's headers.
    pub fn include(&self) -> PathBuf {
        self.dir.join("mlx/include")
    }

    /// Returns the directories of MLX's library and of the static library of mlx-c.
    pub fn libraries(&self) -> [PathBuf; 2] {
        [self.dir.join("mlx/lib"), self.dir.clone()]
    }
}
