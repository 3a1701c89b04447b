//! Downloads from PyPI, pinned by version and hash, and cached between runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use etcetera::BaseStrategy;
use sha2::{Digest, Sha256};

use crate::run;

/// A wheel on PyPI. pip verifies the hash of a download, and [`Wheel::fetch`] that of a cached file.
pub struct Wheel {
    pub package: &'static str,
    pub version: &'static str,
    pub sha256: &'static str,
}

/// A source distribution on PyPI.
pub struct Sdist {
    pub package: &'static str,
    pub version: &'static str,
    pub sha256: &'static str,
}

/// Returns the directory of downloads and files derived from them: `$FLASH_CACHE`, or `flash` in the user's cache
/// directory.
pub fn dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("FLASH_CACHE") {
        return Ok(dir.into());
    }
    let base = etcetera::choose_base_strategy()
        .context("no home directory to cache downloads in; set FLASH_CACHE")?;
    Ok(base.cache_dir().join("flash"))
}

impl Wheel {
    /// Returns the file of the wheel, downloading it if it is not cached.
    pub fn fetch(&self) -> Result<PathBuf> {
        let mut pip = pip(Path::new("python3"));
        fetch("wheels", self.package, self.version, self.sha256, pip.arg("--only-binary=:all:"))
    }

    /// Unpacks the files of the wheel whose names `wanted` accepts to the directory `into`.
    pub fn unpack(&self, into: &Path, mut wanted: impl FnMut(&str) -> bool) -> Result<()> {
        let file = self.fetch()?;
        let mut archive = zip::ZipArchive::new(File::open(&file)?)
            .with_context(|| format!("{} is not a wheel", file.display()))?;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index)?;
            let Some(name) = entry.enclosed_name() else {
                bail!("{} contains a path outside of the archive: {}", file.display(), entry.name());
            };
            if entry.is_dir() || !wanted(entry.name()) {
                continue;
            }
            let path = into.join(name);
            fs::create_dir_all(path.parent().expect("joined above"))?;
            let mut out = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            io::copy(&mut entry, &mut out).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

impl Sdist {
    /// Returns the archive, downloading it if it is not cached.
    ///
    /// pip runs the build system of a source distribution for its metadata, so `python` must have it installed.
    pub fn fetch(&self, python: &Path) -> Result<PathBuf> {
        let mut pip = pip(python);
        pip.args(["--no-binary=:all:", "--no-build-isolation"]);
        fetch("sdists", self.package, self.version, self.sha256, &mut pip)
    }
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--no-cache-dir"]);
    command
}

/// Returns the file with this hash below `folder`, downloading it with `pip` if it is not cached.
fn fetch(folder: &str, package: &str, version: &str, hash: &str, pip: &mut Command) -> Result<PathBuf> {
    let dir = dir()?.join(folder).join(hash);
    if let Some(file) = only_file(&dir)
        && sha256(&file)? == hash
    {
        return Ok(file);
    }
    let parent = dir.parent().expect("joined above");
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let temporary = tempfile::tempdir_in(parent)?;
    let requirement = temporary.path().join("requirement.txt");
    fs::write(&requirement, format!("{package}=={version} --hash=sha256:{hash}\n"))?;
    let files = temporary.path().join("files");
    pip.args(["--require-hashes", "--requirement"]).arg(&requirement).arg("--dest").arg(&files);
    let downloading = format!("Downloading {package} {version}");
    eprintln!("{downloading}");
    // pip says where it looks and what it saves; only its errors are of interest.
    pip.arg("--quiet");
    run::with_signs_of_life(&downloading, || run::check(pip))
        .with_context(|| format!("{package} {version} could not be downloaded from PyPI"))?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::rename(&files, &dir)?;
    let Some(file) = only_file(&dir) else {
        bail!("pip left no single file of {package} in {}", dir.display());
    };
    Ok(file)
}

/// Returns the SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

/// Returns the SHA-256 of several byte strings and their lengths, in hexadecimal.
pub fn sha256_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("{:x}", hash.finalize())
}

fn only_file(dir: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let file = files.next()?;
    files.next().is_none().then_some(file)
}
