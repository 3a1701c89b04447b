//! Builds llama.cpp for the processor of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::instructions::Instructions;
use super::processor;
use crate::cache::{self, Sdist};
use crate::run;

/// Sources of llama.cpp. It is not on PyPI itself, but its Python bindings ship the sources.
const SOURCES: Sdist = Sdist {
    package: "llama-cpp-python",
    version: "0.3.36",
    sha256: "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
};
const FOLDER: &str = "vendor/llama.cpp";
/// Commit of these sources, from their `.git` file.
const COMMIT: &str = "0c1e57098";

/// CMake options of an optimized build, without parts that the benchmark does not need.
const OPTIONS: [&str; 11] = [
    "-DCMAKE_BUILD_TYPE=Release",
    // The program finds its libraries relative to itself, because the directory is renamed after the build.
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_NUMBER=0",
];

/// Header that is included before all C++ sources.
const TILE_CONFIG: &str = include_str!("tile_config.h");

/// Python script that prints the instruction sets the library was compiled for.
const SYSTEM_INFO: &str = "\
import ctypes, sys
info = ctypes.CDLL(sys.argv[1]).llama_print_system_info
info.restype = ctypes.c_char_p
print(info().decode())";

/// Programs that are built.
const PROGRAMS: [&str; 2] = ["llama-bench", "llama-batched-bench"];

/// A directory with these programs and their libraries.
pub struct LlamaCpp {
    dir: PathBuf,
}

impl LlamaCpp {
    /// Builds llama.cpp for some instruction sets with the CMake installed beside `python`, if it is not built yet.
    pub fn ensure(python: &Path, instructions: Instructions) -> Result<Self> {
        let options = [instructions.cmake_options().as_slice(), &OPTIONS].concat();
        let parts = [
            SOURCES.sha256.into(),
            options.join(" "),
            TILE_CONFIG.into(),
            processor::instructions(),
            PROGRAMS.join(" "),
        ];
        let key = &cache::sha256_of(&parts.each_ref().map(String::as_bytes))[..16];
        let this = Self { dir: cache::dir()?.join("llama.cpp").join(key) };
        if !this.dir.exists() {
            build(python, &options, &this.dir)?;
        }
        Ok(this)
    }

    pub fn bench(&self) -> PathBuf {
        self.dir.join(PROGRAMS[0])
    }

    pub fn batched_bench(&self) -> PathBuf {
        self.dir.join(PROGRAMS[1])
    }

    /// Returns the version of the sources.
    pub fn version(&self) -> String {
        format!("llama.cpp {COMMIT}, from {} {}", SOURCES.package, SOURCES.version)
    }

    /// Returns the instruction sets that the library uses, as reported by itself.
    pub fn system_info(&self, python: &Path) -> Result<String> {
        let library = self.dir.join(format!("libllama{}", std::env::consts::DLL_SUFFIX));
        run::output(Command::new(python).args(["-c", SYSTEM_INFO]).arg(library))
    }
}

fn build(python: &Path, options: &[&str], dir: &Path) -> Result<()> {
    let archive = SOURCES.fetch(python)?;
    eprintln!("Building llama.cpp {COMMIT} (once, some minutes)");
    let parent = dir.parent().expect("joined by ensure");
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let temporary = tempfile::tempdir_in(parent)?;
    let sources = temporary.path().join("sources");
    fs::create_dir(&sources)?;
    let folder = format!("{}-{}/{FOLDER}", SOURCES.package.replace('-', "_"), SOURCES.version);
    // The file `.git` points to a repository that does not exist.
    run::check(
        Command::new("tar")
            .args(["--strip-components=3", "--exclude=.git", "-C"])
            .arg(&sources)
            .arg("-xzf")
            .arg(&archive)
            .arg(&folder),
    )?;
    let build = temporary.path().join("build");
    let cmake = python.with_file_name("cmake");
    let log = temporary.path().join("log.txt");
    let mut configure = Command::new(&cmake);
    configure.arg("-S").arg(&sources).arg("-B").arg(&build).args(["-G", "Ninja"]).args(options);
    configure.arg(format!("-DLLAMA_BUILD_COMMIT={COMMIT}"));
    let tile_config = temporary.path().join("tile_config.h");
    fs::write(&tile_config, TILE_CONFIG)?;
    configure.arg(format!("-DCMAKE_CXX_FLAGS=-include {}", tile_config.display()));
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", python.with_file_name("ninja").display()));
    run::check(configure.stdout(fs::File::create(&log)?))
        .context("llama.cpp cannot be built; a C++17 compiler is needed")?;
    run::check(Command::new(&cmake).arg("--build").arg(&build).arg("--target").args(PROGRAMS))?;
    fs::rename(build.join("bin"), dir).with_context(|| format!("cannot create {}", dir.display()))
}
