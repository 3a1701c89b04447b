//! Contents of a package, the same in the wheel and in the tarball.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::licenses::License;

/// Version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Path of the program.
pub const PROGRAM: &str = "bin/flash-cli";

/// Description for people who have the archive only.
pub const README: &str = include_str!("../../../python/README.md");

/// Time of all files in seconds since 1970: the earliest that a zip archive can hold. It is fixed, so that the same
/// files make the same archives.
pub const MODIFIED: u64 = 315_532_800;

/// Files by path, in the order of the archives. Names use `/`.
pub type Files = BTreeMap<String, File>;

#[derive(Debug)]
pub struct File {
    pub bytes: Vec<u8>,
    pub is_program: bool,
}

/// A program with everything it needs.
#[derive(Debug)]
pub struct Package {
    /// Files below the root of the package.
    pub files: Files,
    pub licenses: Vec<License>,
    /// Platform tag of the wheel.
    pub tag: String,
    /// Target triple.
    pub triple: String,
}

impl File {
    pub fn data(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), is_program: false }
    }

    pub fn program(bytes: Vec<u8>) -> Self {
        Self { bytes, is_program: true }
    }

    /// Reads a file that is not a program.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::data(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
    }

    /// Permissions in both archives.
    pub fn mode(&self) -> u32 {
        if self.is_program { 0o755 } else { 0o644 }
    }
}
