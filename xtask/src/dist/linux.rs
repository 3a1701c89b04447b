//! The package for Linux: the program, and MLX's library with its private BLAS, from MLX's wheel.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::elf::{self, Elf};
use super::layout::{File, Files, PROGRAM, Package};
use super::{licenses, manylinux};
use crate::{native, run};

/// Directory of MLX's library, below the root of the package and below that of MLX's wheel.
const MLX_DIR: &str = "/mlx/lib";

/// Directory of the BLAS in MLX's wheel. MLX's library searches for it in `$ORIGIN/../../mlx_cpu.libs`.
const BLAS_DIR: &str = "mlx_cpu.libs/";

/// Libraries that a distribution provides, of those that PEP 600 allows: only the ones used so far.
const SYSTEM: [&str; 9] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

/// Packages a built `flash-cli`.
pub fn package(flash_cli: &Path) -> Result<Package> {
    let mut files = libraries()?;
    files.insert(PROGRAM.to_owned(), program(flash_cli)?);
    let wheel = native::wheel()?.fetch()?;
    let least = wheel.file_stem().and_then(|name| name.to_str()).and_then(|name| name.rsplit('-').next());
    let least = least.and_then(manylinux::parse);
    let least = least.with_context(|| format!("{} is not tagged manylinux", wheel.display()))?;
    let glibc = manylinux::oldest_glibc(least, versions(&files)?.iter().map(String::as_str))?;
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut licenses = licenses::common(&triple)?;
    licenses.extend(licenses::linear_algebra().into_iter().filter(|license| {
        // libquadmath is not on every architecture.
        let library = format!("{BLAS_DIR}{}", license.name.trim_end_matches(".txt"));
        files.keys().any(|path| path.starts_with(&library))
    }));
    Ok(Package { files, licenses, tag: format!("manylinux_2_{glibc}_{}", env::consts::ARCH), triple })
}

/// Returns MLX's library and its BLAS as they are in the wheel, without headers.
fn libraries() -> Result<Files> {
    let dir = tempfile::tempdir()?;
    let mut names = Vec::new();
    native::wheel()?.unpack(dir.path(), |name| {
        let is_library =
            name.contains(".so") && (name.starts_with(&MLX_DIR[1..]) || name.starts_with(BLAS_DIR));
        if is_library {
            names.push(name.to_owned());
        }
        is_library
    })?;
    names.into_iter().map(|name| Ok((name.clone(), File::read(&dir.path().join(name))?))).collect()
}

/// Returns a copy of the program without symbols, which finds MLX's library beside itself. The build for development
/// finds it in the cache of this machine.
fn program(flash_cli: &Path) -> Result<File> {
    let dir = tempfile::tempdir()?;
    let stripped = dir.path().join("flash-cli");
    run::check(Command::new("strip").arg("--strip-all").arg("-o").args([&stripped, flash_cli]))
        .context("the symbols of flash-cli could not be removed; binutils has the program strip")?;
    let mut bytes = fs::read(&stripped)?;
    elf::make_relocatable(&mut bytes, MLX_DIR).with_context(|| format!("{}", flash_cli.display()))?;
    Ok(File::program(bytes))
}

/// Returns the versions of system libraries' symbols that the files need, after checking that every library is either
/// in the package or in the system, and is found relative to the file that needs it.
fn versions(files: &Files) -> Result<BTreeSet<String>> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.rsplit('/').next()).collect();
    let mut versions = BTreeSet::new();
    for (path, file) in files.iter().filter(|(_, file)| elf::is_elf(&file.bytes)) {
        let elf = Elf::parse(&file.bytes).with_context(|| path.clone())?;
        for library in elf.needed()? {
            if !SYSTEM.contains(&library) && !names.contains(library) {
                bail!("{path} needs {library}, which is neither in the package nor in every distribution");
            }
        }
        for directory in elf.search_path()? {
            if directory != "$ORIGIN" && !directory.starts_with("$ORIGIN/") {
                bail!("{path} searches for libraries in {directory}, which other machines do not have");
            }
        }
        let system = elf.versions()?.into_iter().filter(|version| SYSTEM.contains(&version.library));
        versions.extend(system.map(|version| version.name.to_owned()));
    }
    Ok(versions)
}
