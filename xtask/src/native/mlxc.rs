//! Compiles mlx-c and our own shims into one static library.
//!
//! Nearly all time goes into MLX's headers, which every source file includes, so the files are compiled in a few units
//! that each include several of them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};

use super::layout::Native;
use crate::run;

/// Name of the static library, without `lib` and `.a`.
pub const LIBRARY: &str = "flashmlxc";

pub fn compile(native: &Native, mlx_c: &Path, shims: &Path) -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let objects = tempfile::tempdir()?;
    let mut sources = mlx_c_files(mlx_c)?;
    sources.extend(shim_sources(shims)?);
    let units = write_units(sources, objects.path())?;
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
        .out_dir(objects.path());
    for object in run::with_signs_of_life("Compiling mlx-c", || compile_units(&build, &units))? {
        build.object(object);
    }
    build.try_compile(LIBRARY).context("the objects of mlx-c cannot be archived; binutils are needed")?;
    let name = format!("lib{LIBRARY}.a");
    fs::copy(objects.path().join(&name), native.dir.join(&name))?;
    Ok(())
}

/// More units than this do not take less time: one source has a third of all bytes.
const N_UNITS_MAX: usize = 4;

/// Writes a unit for each processor to `dir`. Together they include all of `sources`, each about as many bytes.
fn write_units(sources: Vec<PathBuf>, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut sized = Vec::with_capacity(sources.len());
    for source in sources {
        let bytes = fs::metadata(&source).with_context(|| format!("cannot read {}", source.display()))?.len();
        sized.push((bytes, source));
    }
    sized.sort_by(|a, b| b.cmp(a));
    let n_units = thread::available_parallelism().map_or(1, usize::from).min(N_UNITS_MAX);
    let mut units = vec![(0, String::new()); n_units];
    for (bytes, source) in sized {
        let (unit_bytes, text) = units.iter_mut().min_by_key(|(bytes, _)| *bytes).expect("there are units");
        *unit_bytes += bytes;
        writeln!(text, "#include {:?}", source.display().to_string())?;
    }
    let mut paths = Vec::with_capacity(n_units);
    for (idx, (_, text)) in units.into_iter().enumerate() {
        let path = dir.join(format!("unit{idx}.cpp"));
        fs::write(&path, text)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Compiles units, all at once, and returns their objects.
fn compile_units(build: &cc::Build, units: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let compiled: Vec<_> = thread::scope(|scope| {
        let compile = |unit| scope.spawn(move || build.clone().file(unit).try_compile_intermediates());
        let threads: Vec<_> = units.iter().map(compile).collect();
        threads.into_iter().map(|thread| thread.join().expect("cc does not panic")).collect()
    });
    let mut objects = Vec::with_capacity(units.len());
    for unit in compiled {
        objects.extend(unit.context("mlx-c does not compile; a C++20 compiler is needed (g++ 12 or later)")?);
    }
    Ok(objects)
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
