//! Prepares native MLX on Linux, where `mlx-sys` cannot build itself (its script links Apple's frameworks).
//!
//! Cargo's configuration can replace a build script by a *links override*. The override uses MLX's own Linux wheel,
//! mlx-c compiled against it from the sources inside `mlx-sys`, and bindings as the build script generates them. It is
//! written to `.cargo/native.toml`. On macOS there is nothing to do.

mod bindings;
mod config;
mod layout;
mod mlxc;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::cache::{self, Wheel};
use crate::run;
use layout::Native;

/// The wheels of MLX. `mlx-sys` 0.7.0 binds mlx-c 0.7.0, which is written for exactly this version.
const MLX: [(&str, Wheel); 2] = [
    ("x86_64", mlx("fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878")),
    ("aarch64", mlx("d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b")),
];

const fn mlx(sha256: &'static str) -> Wheel {
    Wheel { package: "mlx-cpu", version: "0.32.2", sha256 }
}

/// Version of the build steps, to be changed when they produce other output from the same inputs.
const RECIPE: &[u8] = b"1";

/// Prepares native MLX if that was not done yet, and configures the workspace (and `config_dir`, if given) to use it.
/// Returns whether the configuration of the workspace changed.
pub fn prepare(config_dir: Option<&Path>) -> Result<bool> {
    if !cfg!(target_os = "linux") {
        if config_dir.is_some() {
            eprintln!("Nothing to write: outside Linux, mlx-sys builds by itself.");
        }
        return Ok(false);
    }
    let native = built()?;
    let has_changed = config::write(&native, &run::workspace().join(".cargo"))?;
    if let Some(dir) = config_dir {
        config::write(&native, dir)?;
        config::include(dir)?;
    }
    Ok(has_changed)
}

/// Returns the directory of MLX's Rust bindings on Linux, preparing native MLX if that was not done yet.
pub fn bindings_dir() -> Result<PathBuf> {
    Ok(built()?.dir)
}

fn built() -> Result<Native> {
    let wheel = wheel()?;
    let mlx_c = mlx_c_sources()?;
    let shims = run::workspace().join("native");
    let native = Native { dir: cache::dir()?.join("native").join(key(wheel, &mlx_c, &shims)?) };
    if !native.dir.exists() {
        build(&native, wheel, &mlx_c, &shims)?;
    }
    Ok(native)
}

/// Returns the wheel of MLX for this machine.
pub fn wheel() -> Result<&'static Wheel> {
    let arch = std::env::consts::ARCH;
    let Some((_, wheel)) = MLX.iter().find(|(name, _)| *name == arch) else {
        bail!("MLX has no Linux build for {arch}");
    };
    Ok(wheel)
}

/// Returns the directory `src/mlx-c` of the `mlx-sys` version in Cargo.lock.
fn mlx_c_sources() -> Result<PathBuf> {
    let metadata =
        MetadataCommand::new().current_dir(run::workspace()).exec().context("cargo metadata failed")?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "mlx-sys")
        .context("the workspace does not depend on mlx-sys")?;
    let dir = package.manifest_path.parent().context("mlx-sys has no folder")?.join("src/mlx-c");
    Ok(dir.into_std_path_buf())
}

/// Returns the cache key: a hash of all inputs.
fn key(wheel: &Wheel, mlx_c: &Path, shims: &Path) -> Result<String> {
    let mut parts = vec![
        RECIPE.to_vec(),
        wheel.sha256.into(),
        bindings::HALF_TYPES.into(),
        fs::read(mlx_c.join("CMakeLists.txt"))?,
    ];
    for source in mlxc::shim_sources(shims)?.into_iter().chain(mlxc::shim_headers(shims)?) {
        parts.push(fs::read(source)?);
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Ok(cache::sha256_of(&parts)[..16].to_owned())
}

fn build(native: &Native, wheel: &Wheel, mlx_c: &Path, shims: &Path) -> Result<()> {
    eprintln!("Preparing native MLX {} (once, about a minute)", wheel.version);
    let parent = native.dir.parent().expect("joined by prepare");
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    // Renamed into place when complete, so that an interrupted build is not used.
    let temporary = tempfile::tempdir_in(parent)?;
    let partial = Native { dir: temporary.path().to_owned() };
    wheel.unpack(&partial.dir, |name| {
        name.starts_with("mlx/include/") || name.starts_with("mlx/lib/") || name.starts_with("mlx_cpu.libs/")
    })?;
    mlxc::compile(&partial, mlx_c, shims)?;
    run::with_signs_of_life("Generating bindings", || bindings::generate(&partial.dir, mlx_c))?;
    let complete = temporary.keep();
    fs::rename(&complete, &native.dir).with_context(|| format!("cannot create {}", native.dir.display()))
}
