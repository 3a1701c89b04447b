//! Writes the tarball: the same files as in the wheel, below one directory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::layout::{File, MODIFIED, Package, README, VERSION};

/// Writes the tarball to the directory `out`, and returns its path.
pub fn write(package: &Package, out: &Path) -> Result<PathBuf> {
    let root = format!("flash-{VERSION}-{}", package.triple);
    let path = out.join(format!("{root}.tar.gz"));
    write_to(&path, package, &root).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn write_to(path: &Path, package: &Package, root: &str) -> Result<()> {
    let gzip = GzEncoder::new(fs::File::create(path)?, Compression::best());
    let mut archive = Builder::new(gzip);
    add(&mut archive, &format!("{root}/README.md"), &File::data(README))?;
    for (path, file) in &package.files {
        add(&mut archive, &format!("{root}/{path}"), file)?;
    }
    for license in &package.licenses {
        add(&mut archive, &format!("{root}/licenses/{}", license.name), &File::data(license.text.as_str()))?;
    }
    archive.into_inner()?.finish()?;
    Ok(())
}

/// Adds a file that belongs to root, as all do after an installation.
fn add(archive: &mut Builder<impl Write>, path: &str, file: &File) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(file.bytes.len() as u64);
    header.set_mode(file.mode());
    header.set_mtime(MODIFIED);
    header.set_uid(0);
    header.set_gid(0);
    Ok(archive.append_data(&mut header, path, file.bytes.as_slice())?)
}
