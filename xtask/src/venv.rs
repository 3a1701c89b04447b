//! A Python environment with mlx-lm, with every package pinned by version and hash.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cache, run};

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// Marker file that is written last; without it, the installation was interrupted.
const COMPLETE: &str = "complete";

/// Returns the interpreter of the environment, installing the environment if it does not exist.
pub fn python() -> Result<PathBuf> {
    let dir = cache::dir()?.join("venv").join(&cache::sha256_of(&[REQUIREMENTS.as_bytes()])[..16]);
    let python = dir.join("bin").join("python");
    if dir.join(COMPLETE).exists() {
        return Ok(python);
    }
    eprintln!("Installing mlx-lm into {} (once, about 350 MB)", dir.display());
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    run::check(Command::new("python3").args(["-m", "venv"]).arg(&dir)).context(
        "python3 could not create an environment; Python 3.11 or newer with its venv module is needed",
    )?;
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    run::check(
        Command::new(&python)
            .args(["-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-cache-dir"])
            .args(["--only-binary=:all:", "--require-hashes", "--requirement"])
            .arg(&requirements),
    )
    .context("the packages of xtask/requirements.txt could not be installed from PyPI")?;
    fs::write(dir.join(COMPLETE), "")?;
    Ok(python)
}
