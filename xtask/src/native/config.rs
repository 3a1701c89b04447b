//! Writes Cargo's configuration: the links override that replaces the build script of `mlx-sys`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use super::layout::Native;
use super::mlxc;

const FILE: &str = "native.toml";
const INCLUDE: &str = "include = [{ path = \"native.toml\", optional = true }]\n";

/// Writes `native.toml` to `dir`, unless it is up to date: cargo rebuilds everything after a change. Returns whether it
/// was written.
pub fn write(native: &Native, dir: &Path) -> Result<bool> {
    let text = settings(native).to_string();
    let path = dir.join(FILE);
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// Makes the configuration in `dir` include `native.toml`. An existing configuration is not changed.
pub fn include(dir: &Path) -> Result<()> {
    let path = dir.join("config.toml");
    match fs::read_to_string(&path) {
        Ok(text) if text.contains(FILE) => Ok(()),
        Ok(_) => {
            bail!("{} exists: add this line at its top, before any [section]:\n{INCLUDE}", path.display())
        }
        Err(_) => fs::write(&path, INCLUDE).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn settings(native: &Native) -> Table {
    let libraries = native.libraries().map(|dir| dir.display().to_string());
    let mut mlx = Table::new();
    mlx.insert("rustc-link-search".into(), strings(libraries.iter().map(|dir| format!("native={dir}"))));
    mlx.insert(
        "rustc-link-lib".into(),
        strings([format!("static={}", mlxc::LIBRARY), "dylib=mlx".into(), "dylib=stdc++".into()]),
    );
    let mut env = Table::new();
    env.insert("OUT_DIR".into(), native.dir.display().to_string().into());
    mlx.insert("rustc-env".into(), env.into());

    let mut target = Table::new();
    // Programs find MLX's library by this rpath, and the library finds its BLAS beside itself.
    // Doctests are linked by rustdoc, which has separate flags.
    let rpath = strings(["-C".into(), format!("link-arg=-Wl,-rpath,{}", libraries[0])]);
    target.insert("rustflags".into(), rpath.clone());
    target.insert("rustdocflags".into(), rpath);
    target.insert("mlx".into(), mlx.into());
    let mut targets = Table::new();
    targets.insert(format!("{}-unknown-linux-gnu", std::env::consts::ARCH), target.into());
    let mut all = Table::new();
    all.insert("target".into(), targets.into());
    all
}

fn strings(items: impl IntoIterator<Item = String>) -> Value {
    items.into_iter().map(Value::from).collect::<Vec<_>>().into()
}
