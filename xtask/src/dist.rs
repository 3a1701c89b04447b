//! Archives that run without Rust: a wheel, with the program and a thin Python package, and a tarball.

mod check;
mod crates;
mod elf;
mod layout;
mod licenses;
mod linux;
mod macos;
mod manylinux;
mod tarball;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;

use crate::{models, native, run};
use layout::Package;

#[derive(Debug, Args)]
pub struct DistArgs {
    /// Build flash-cli with this cargo profile
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// Output directory [default: `dist` in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Install the wheel into a fresh Python environment, unpack the tarball, and run the demo model with both
    #[arg(long)]
    check: bool,
}

/// The archives of one build.
struct Archives {
    wheel: PathBuf,
    tarball: PathBuf,
}

/// Builds the archives, prints their paths and, if requested, checks them.
pub fn run(args: &DistArgs) -> Result<()> {
    native::prepare(None)?;
    let out = args.out.clone().unwrap_or_else(|| run::target().join("dist"));
    let (flash_cli, package) = if cfg!(target_os = "macos") {
        let flash_cli = macos::build(&args.profile)?;
        let package = macos::package(&flash_cli)?;
        (flash_cli, package)
    } else {
        let flash_cli = models::build_cli(&args.profile)?;
        let package = linux::package(&flash_cli)?;
        (flash_cli, package)
    };
    let archives = write(&package, &out)?;
    for (name, path) in [("wheel", &archives.wheel), ("tarball", &archives.tarball)] {
        eprintln!("The {name} takes {}:", ByteSize(path.metadata()?.len()).display().si());
        println!("{}", path.display());
    }
    if args.check { check::run(&archives, &models::demo(&flash_cli)?) } else { Ok(()) }
}

/// Packages a built `flash-cli`, and checks that the archives run `model` on their own. Linux only: on macOS a build for
/// distribution differs from one for development.
pub fn check(flash_cli: &Path, model: &Path) -> Result<()> {
    let out = tempfile::tempdir()?;
    check::run(&write(&linux::package(flash_cli)?, out.path())?, model)
}

fn write(package: &Package, out: &Path) -> Result<Archives> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    Ok(Archives { wheel: wheel::write(package, out)?, tarball: tarball::write(package, out)? })
}
