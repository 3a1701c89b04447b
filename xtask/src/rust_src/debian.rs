//! Debian's package `rust-src`, taken from its backports by apt without installing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cache, run};

const PACKAGE: &str = "rust-src";
/// The suite with the newest toolchains.
const SUITE: &str = "trixie-backports";
/// Mirror to use if the machine's sources name none.
const MIRROR: &str = "http://deb.debian.org/debian/";
/// Keys of Debian's archive. Derived distributions do not have them, and apt could not verify the suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns the directory `library` of the package whose upstream version is `release`, downloading the package if it is
/// not cached. The inner error says why this machine or Debian does not provide it.
///
/// # Errors
/// If the archive cannot be reached or verified, which is no reason to skip a check.
pub fn library(release: &str) -> Result<Result<PathBuf, String>> {
    let dir = cache::dir()?.join(PACKAGE).join(release);
    if dir.exists() {
        return Ok(Ok(dir));
    }
    if !has_debian_tools() {
        return Ok(Err("this is not Debian; `rustup component add rust-src` installs them".to_owned()));
    }
    let parent = dir.parent().expect("joined above");
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let temporary = tempfile::tempdir_in(parent)?;
    let apt = Apt::new(temporary.path())?;
    run::check(&mut apt.update()).with_context(|| format!("{} cannot be reached", apt.source))?;
    let versions = run::output(&mut apt.versions())?;
    let Some(version) = version_of(&versions, release) else {
        return Ok(Err(format!("{SUITE} of Debian has no {PACKAGE} {release}")));
    };
    eprintln!("Downloading Debian's {PACKAGE} {version} (once, 45 MB)");
    run::check(&mut apt.download(version))?;
    let unpacked = temporary.path().join("library");
    unpack(&apt.downloaded()?, &unpacked)?;
    if !unpacked.join("Cargo.lock").exists() {
        bail!("Debian's {PACKAGE} {version} holds no usr/src/rustc-*/library");
    }
    // Renamed into place when complete, so that an interrupted download is not used.
    fs::rename(&unpacked, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(Ok(dir))
}

fn has_debian_tools() -> bool {
    let runs = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    Path::new(KEYRING).exists() && ["apt-get", "apt-cache", "dpkg-deb"].into_iter().all(runs)
}

/// apt with directories and sources of its own, so that it needs no privileges and changes nothing on the machine.
struct Apt {
    dir: PathBuf,
    source: String,
}

impl Apt {
    fn new(dir: &Path) -> Result<Self> {
        for name in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {} {SUITE} main", mirror(&machine_mirrors()));
        fs::write(dir.join("sources.list"), format!("{source}\n"))?;
        Ok(Self { dir: dir.to_owned(), source })
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        let dir = self.dir.display();
        command.args([
            format!("-oDir::Etc::sourcelist={dir}/sources.list"),
            "-oDir::Etc::sourceparts=-".to_owned(),
            format!("-oDir::State::Lists={dir}/lists"),
            format!("-oDir::Cache={dir}/cache"),
            // Root would download as a user who may not enter the directory.
            "-oAPT::Sandbox::User=root".to_owned(),
        ]);
        // It reports what it does; only its errors are of interest.
        command.arg("-qq").stdout(Stdio::null());
        command
    }

    fn update(&self) -> Command {
        let mut command = self.command("apt-get");
        // By default, apt succeeds with old lists, or without any, if the archive cannot be reached.
        command.args(["-oAPT::Update::Error-Mode=any", "-oAcquire::Languages=none", "update"]);
        command
    }

    fn versions(&self) -> Command {
        let mut command = self.command("apt-cache");
        command.args(["madison", PACKAGE]).stdout(Stdio::piped());
        command
    }

    fn download(&self, version: &str) -> Command {
        let mut command = self.command("apt-get");
        command.arg("download").arg(format!("{PACKAGE}={version}")).current_dir(self.dir.join("packages"));
        command
    }

    fn downloaded(&self) -> Result<PathBuf> {
        let file = fs::read_dir(self.dir.join("packages"))?.next().context("apt-get left no package")?;
        Ok(file?.path())
    }
}

/// Returns the addresses of the archives in the machine's sources, one a line; nothing if apt cannot list them.
fn machine_mirrors() -> String {
    let format = ["indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"];
    run::output(Command::new("apt-get").args(format)).unwrap_or_default()
}

/// Returns the mirror of Debian's main archive among `mirrors`. Other archives, such as that of security updates, have
/// other names and no backports.
fn mirror(mirrors: &str) -> &str {
    let is_debian = |uri: &&str| uri.trim_end_matches('/').ends_with("/debian");
    mirrors.lines().find(is_debian).unwrap_or(MIRROR)
}

/// Returns the newest version in the output of `apt-cache madison`, newest first, that packages `release`.
fn version_of<'a>(madison: &'a str, release: &str) -> Option<&'a str> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    versions.into_iter().find(|version| {
        version.strip_prefix(release).is_some_and(|revision| revision.starts_with(['+', '-', '~']))
    })
}

/// Unpacks `usr/src/rustc-*/library` of a package to the directory `into`; the compiler's sources are six times as large.
fn unpack(package: &Path, into: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let mut files = tar::Archive::new(dpkg.stdout.take().expect("piped above"));
    for file in files.entries()? {
        let mut file = file?;
        let path = file.path()?.into_owned();
        let Some(path) = path_in_library(&path) else { continue };
        let path = into.join(path);
        fs::create_dir_all(path.parent().expect("joined above"))?;
        file.unpack(&path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let status = dpkg.wait()?;
    if !status.success() {
        bail!("dpkg-deb --fsys-tarfile {} failed ({status})", package.display());
    }
    Ok(())
}

/// Returns the path below `usr/src/rustc-*/library` of a regular entry.
fn path_in_library(path: &Path) -> Option<PathBuf> {
    let mut parts = path.strip_prefix("./usr/src").ok()?.components();
    let version = parts.next()?.as_os_str().to_str()?;
    let below = parts.as_path().strip_prefix("library").ok()?;
    let is_plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (version.starts_with("rustc-") && is_plain && below != Path::new("")).then(|| below.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_has_exactly_the_version_of_the_toolchain() {
        let madison = "  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://mirror/debian trixie-backports/main\n  \
                       rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://mirror/debian trixie-backports/main\n  \
                       rust-src | 1.95.0+dfsg1-1~bpo13+1 | http://mirror/debian trixie-backports/main\n";
        assert_eq!(version_of(madison, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(version_of(madison, "1.95.1"), None);
        assert_eq!(version_of(madison, "1.9"), None);
        assert_eq!(version_of(madison, "1.96.1-nightly"), None);
        assert_eq!(version_of("", "1.95.0"), None);
    }

    #[test]
    fn mirror_is_that_of_the_main_archive() {
        let sources = "http://mirror/debian-security/\nhttps://mirror/packages/\nhttps://mirror/debian/\n";
        assert_eq!(mirror(sources), "https://mirror/debian/");
        assert_eq!(mirror("https://mirror/ubuntu/\n"), MIRROR);
        assert_eq!(mirror(""), MIRROR);
    }

    #[test]
    fn only_files_of_the_library_are_unpacked() {
        let path = |path: &str| path_in_library(Path::new(path));
        assert_eq!(path("./usr/src/rustc-1.95.0/library/std/src/lib.rs"), Some("std/src/lib.rs".into()));
        assert_eq!(path("./usr/src/rustc-1.95.0/library"), None);
        assert_eq!(path("./usr/src/rustc-1.95.0/compiler/rustc/Cargo.toml"), None);
        assert_eq!(path("./usr/src/rustc-1.95.0/library/../../etc"), None);
        assert_eq!(path("./usr/share/library/x"), None);
    }
}
