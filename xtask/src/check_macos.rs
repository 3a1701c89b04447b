//! Type-checks and lints all crates for Apple silicon, on any Linux machine. Nothing is linked or run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{native, run, rust_src};

const TARGET: &str = "aarch64-apple-darwin";

/// Runs clippy for [`TARGET`].
///
/// On macOS that is the usual run. Elsewhere, it compiles the standard library from source, and takes the place of a C
/// compiler with a script: checks do not look into what crates compile from C. MLX's bindings are those of Linux, which
/// declare the same functions.
pub fn run() -> Result<()> {
    let mut clippy = run::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--all-features", "--target", TARGET]);
    if cfg!(target_os = "linux") {
        let Some(rust_src) = rust_src::find("checks for macOS")? else { return Ok(()) };
        rust_src.build_std(&mut clippy);
        let dir = run::target().join("macos");
        let stub = compiler_stub(&dir)?;
        let bindings = native::bindings_dir()?;
        let Some(bindings) = bindings.to_str() else { bail!("{} is not UTF-8", bindings.display()) };
        let bindings = toml::Value::from(bindings);
        clippy
            .arg("--config")
            .arg(format!("target.{TARGET}.mlx.rustc-env.OUT_DIR={bindings}"))
            .env("CARGO_TARGET_DIR", &dir)
            .env(format!("CC_{}", TARGET.replace('-', "_")), &stub)
            .env(format!("CXX_{}", TARGET.replace('-', "_")), &stub)
            .env(format!("AR_{}", TARGET.replace('-', "_")), &stub)
            // cc would ask Xcode for its directory.
            .env("SDKROOT", &dir);
    }
    run::check(clippy.args(["--", "-D", "warnings"]))
}

/// Writes a program to `dir` that creates the output of a C compiler or an archiver, empty.
fn compiler_stub(dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;

    const SCRIPT: &str = r#"#!/bin/sh
# Takes the place of cc and ar: creates an empty output, named after -o or ending in .a.
while [ $# -gt 0 ]; do
  case "$1" in
    -o) shift; : > "$1" ;;
    -o?*) : > "${1#-o}" ;;
    *.a) : > "$1" ;;
  esac
  shift
done
"#;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("no-compiler");
    if fs::read_to_string(&path).is_ok_and(|old| old == SCRIPT) {
        return Ok(path);
    }
    fs::write(&path, SCRIPT).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
