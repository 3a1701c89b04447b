//! Sources of Rust's standard library, for targets whose compiled library rustup has not installed.
//!
//! They must be those of exactly the toolchain's version. Where rustup's component `rust-src` is missing, Debian's
//! package of that version serves.

mod debian;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// Directory `library` with the sources of the standard library and of the crates it depends on.
pub struct RustSrc {
    library: PathBuf,
    in_sysroot: bool,
}

/// Returns the sources of the toolchain's standard library. If nothing provides them, prints why, and that `purpose` is
/// skipped.
///
/// # Errors
/// If Debian's archive cannot be reached, or its package is not laid out as expected.
pub fn find(purpose: &str) -> Result<Option<RustSrc>> {
    let sysroot = run::output(rustc().args(["--print", "sysroot"]))?;
    let library = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
    if library.join("Cargo.lock").exists() {
        return Ok(Some(RustSrc { library, in_sysroot: true }));
    }
    let found = debian::library(&release()?)?;
    if let Err(reason) = &found {
        eprintln!("Skipped: {purpose}. It needs the sources of Rust's standard library, and {reason}.");
    }
    Ok(found.ok().map(|library| RustSrc { library, in_sysroot: false }))
}

impl RustSrc {
    /// Makes a command of cargo compile the standard library for its target.
    pub fn build_std(&self, cargo: &mut Command) {
        // `-Zbuild-std` is accepted by nightly toolchains, and with this variable by all others.
        cargo.arg("-Zbuild-std").env("RUSTC_BOOTSTRAP", "1");
        if !self.in_sysroot {
            // Cargo has no setting for the directory, only this variable for its tests. (A toolchain of symbolic links
            // does not help: rustc finds its sysroot by the resolved path of its library.)
            cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", &self.library);
        }
    }
}

/// Returns the version of the compiler, such as `1.95.0`.
fn release() -> Result<String> {
    let version = run::output(rustc().args(["--version", "--verbose"]))?;
    let release = version.lines().find_map(|line| line.strip_prefix("release: "));
    Ok(release.context("rustc does not name its release")?.to_owned())
}

fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}
