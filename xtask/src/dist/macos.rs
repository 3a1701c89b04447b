//! The package for macOS, where mlx-sys builds MLX and links it into the program: only its Metal kernels are a file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use super::layout::{File, Files, PROGRAM, Package};
use super::licenses;
use crate::{models, run};

/// MLX's library of Metal kernels. MLX looks for it beside the program first.
const KERNELS: &str = "mlx.metallib";

/// The oldest macOS that the build is for.
const DEPLOYMENT_TARGET: &str = "14.0";

/// Builds `flash-cli` for the oldest macOS.
///
/// A separate target directory, because MLX's objects are compiled for the deployment target, which a build for
/// development does not set.
pub fn build(profile: &str) -> Result<PathBuf> {
    if env::consts::ARCH != "aarch64" {
        bail!("only Macs with Apple silicon are supported, not {}", env::consts::ARCH);
    }
    let mut cargo = run::cargo();
    cargo
        .env("CARGO_TARGET_DIR", target())
        .env("MACOSX_DEPLOYMENT_TARGET", DEPLOYMENT_TARGET)
        // The directory to which mlx-sys writes the kernels.
        .env("MLX_RS_METAL_PATH", target().join("metal"));
    models::build_with(cargo, "flash-cli", "flash-cli", profile)
}

/// Packages a `flash-cli` that [`build`] returned.
pub fn package(flash_cli: &Path) -> Result<Package> {
    let dir = tempfile::tempdir()?;
    let stripped = dir.path().join("flash-cli");
    fs::copy(flash_cli, &stripped).with_context(|| format!("cannot copy {}", flash_cli.display()))?;
    // Apple's strip signs the file again; -x leaves the symbols that the loader needs.
    run::check(Command::new("strip").arg("-x").arg(&stripped))?;
    let commands = run::output(Command::new("otool").arg("-l").arg(&stripped))?;
    let tag = tag(&commands).with_context(|| format!("{} names no oldest macOS", flash_cli.display()))?;
    let mut files = Files::new();
    files.insert(PROGRAM.to_owned(), File::program(fs::read(&stripped)?));
    files.insert(format!("bin/{KERNELS}"), File::read(&target().join("metal").join(KERNELS))?);
    let triple = "aarch64-apple-darwin".to_owned();
    Ok(Package { files, licenses: licenses::common(&triple)?, tag, triple })
}

fn target() -> PathBuf {
    run::target().join("macos-dist")
}

/// Returns the wheel's tag for a program with these load commands, as `otool -l` prints them.
fn tag(commands: &str) -> Option<String> {
    let version = commands.lines().find_map(|line| line.trim().strip_prefix("minos "))?;
    let (major, minor) = version.trim().split_once('.')?;
    Some(format!("macosx_{major}_{minor}_arm64"))
}

#[cfg(test)]
mod tests {
    use super::tag;

    #[test]
    fn the_tag_names_the_oldest_macos() {
        let commands = "Load command 10\n      cmd LC_BUILD_VERSION\n  cmdsize 32\n platform 1\n    minos 14.0\n      sdk 15.2\n";
        assert_eq!(tag(commands).as_deref(), Some("macosx_14_0_arm64"));
        assert_eq!(tag("Load command 0\n"), None);
    }
}
