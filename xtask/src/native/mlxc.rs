//! Compiles mlx-c and our own shims into one static library.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::layout::Native;

/// Name of the static library, without `lib` and `.a`.
pub const LIBRARY: &str = "flashmlxc";

pub fn compile(native: &Native, mlx_c: &Path, shims: &Path) -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let objects = tempfile::tempdir()?;
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .target(&triple)
        .host(&triple)
        .opt_level(2)
        .debug(false)
        .pic(true)
        .warnings(false)
        .cargo_metadata(false)
        .cargo_output(false)
        .flag("-include")
        .flag(shims.join("format_compat.h"))
        .include(native.include())
        .include(mlx_c)
        .files(mlx_c_files(mlx_c)?)
        .files(shim_sources(shims)?)
        .out_dir(objects.path());
    build
        .try_compile(LIBRARY)
        .context("mlx-c does not compile; a C++20 compiler is needed (g++ 12 or later)")?;
    let name = format!("lib{LIBRARY}.a");
    fs::copy(objects.path().join(&name), native.dir.join(&name))?;
    Ok(())
}

/// Lists the source files of our shims, sorted by name.
pub fn shim_sources(shims: &Path) -> Result<Vec<PathBuf>> {
    shim_files(shims, "cpp")
}

/// Lists the headers of our shims, sorted by name.
pub fn shim_headers(shims: &Path) -> Result<Vec<PathBuf>> {
    shim_files(shims, "h")
}

fn shim_files(shims: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(shims).with_context(|| format!("cannot read {}", shims.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    Ok(files)
}

/// Lists the source files in mlx-c's `CMakeLists.txt`, where each is a line `…/name.cpp`. Commented lines are skipped.
fn mlx_c_files(mlx_c: &Path) -> Result<Vec<PathBuf>> {
    let cmake = mlx_c.join("CMakeLists.txt");
    let text = fs::read_to_string(&cmake).with_context(|| format!("cannot read {}", cmake.display()))?;
    let files: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("${CMAKE_CURRENT_LIST_DIR}/"))
        .filter_map(|rest| Some(mlx_c.join(rest.split(')').next()?.trim())))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .collect();
    if files.is_empty() {
        bail!("{} names no sources", cmake.display());
    }
    Ok(files)
}
