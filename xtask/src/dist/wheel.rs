//! Writes the wheel, by the PyPA's specification of binary distributions.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::layout::{File, Package, README, VERSION};
use super::licenses::{self, License};

/// The Python package: the program's files lie inside of it, too.
const PYTHON: [(&str, &str); 3] = [
    ("__init__.py", include_str!("../../../python/flash/__init__.py")),
    ("__main__.py", include_str!("../../../python/flash/__main__.py")),
    ("py.typed", include_str!("../../../python/flash/py.typed")),
];

const ENTRY_POINTS: &str = "[console_scripts]\nflash-cli = flash:main\n";

/// zlib's best compression.
const COMPRESSION_LEVEL: i64 = 9;

/// Writes the wheel to the directory `out`, and returns its path.
pub fn write(package: &Package, out: &Path) -> Result<PathBuf> {
    if !VERSION.split('.').all(|number| number.parse::<u32>().is_ok()) {
        bail!("version {VERSION} is spelled differently by Python: only numbers are supported");
    }
    let tag = format!("py3-none-{}", package.tag);
    let path = out.join(format!("flash-{VERSION}-{tag}.whl"));
    write_to(&path, package, &tag).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn write_to(path: &Path, package: &Package, tag: &str) -> Result<()> {
    let mut wheel = Wheel { archive: ZipWriter::new(fs::File::create(path)?), record: String::new() };
    for (path, file) in &package.files {
        wheel.add(&format!("flash/{path}"), file)?;
    }
    for (name, text) in PYTHON {
        wheel.add(&format!("flash/{name}"), &File::data(text))?;
    }
    let info = format!("flash-{VERSION}.dist-info");
    wheel.add(&format!("{info}/METADATA"), &File::data(metadata(&package.licenses)))?;
    wheel.add(&format!("{info}/WHEEL"), &File::data(format(tag)))?;
    wheel.add(&format!("{info}/entry_points.txt"), &File::data(ENTRY_POINTS))?;
    for license in &package.licenses {
        wheel.add(&format!("{info}/licenses/{}", license.name), &File::data(license.text.as_str()))?;
    }
    let record = format!("{info}/RECORD");
    // RECORD lists itself without a hash.
    let list = format!("{}{record},,\n", wheel.record);
    wheel.add(&record, &File::data(list))?;
    wheel.archive.finish()?;
    Ok(())
}

/// A wheel that is being written, with the lines of its RECORD.
struct Wheel {
    archive: ZipWriter<fs::File>,
    record: String,
}

impl Wheel {
    fn add(&mut self, path: &str, file: &File) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(COMPRESSION_LEVEL))
            // The earliest time of zip archives, which is `MODIFIED` of the tarball.
            .last_modified_time(DateTime::default())
            .unix_permissions(file.mode());
        self.archive.start_file(path, options)?;
        self.archive.write_all(&file.bytes)?;
        self.record += &record_line(path, &file.bytes);
        Ok(())
    }
}

/// Returns a line of RECORD: path, hash and length.
fn record_line(path: &str, bytes: &[u8]) -> String {
    let hash = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(bytes));
    format!("{path},sha256={hash},{}\n", bytes.len())
}

fn format(tag: &str) -> String {
    format!("Wheel-Version: 1.0\nGenerator: flash-xtask {VERSION}\nRoot-Is-Purelib: false\nTag: {tag}\n")
}

/// Returns the core metadata, with the description for people as its body.
fn metadata(licenses: &[License]) -> String {
    let mut text = format!(
        "Metadata-Version: 2.4\n\
         Name: flash\n\
         Version: {VERSION}\n\
         Summary: Run language models larger than memory\n\
         Project-URL: Repository, {}\n\
         Requires-Python: >=3.9\n\
         Description-Content-Type: text/markdown\n\
         License-Expression: {}\n",
        env!("CARGO_PKG_REPOSITORY"),
        licenses::expression(licenses),
    );
    for license in licenses {
        text += &format!("License-File: {}\n", license.name);
    }
    text + "\n" + README
}

#[cfg(test)]
mod tests {
    use super::{format, metadata, record_line};
    use crate::dist::licenses;

    #[test]
    fn a_line_of_record_has_an_unpadded_url_safe_hash() {
        // The SHA-256 of nothing, in the alphabet with `-` and `_`.
        let empty = "flash/py.typed,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n";
        assert_eq!(record_line("flash/py.typed", b""), empty);
    }

    #[test]
    fn the_format_names_the_tag() {
        assert!(format("py3-none-manylinux_2_35_x86_64").contains("\nTag: py3-none-manylinux_2_35_x86_64\n"));
    }

    #[test]
    fn metadata_lists_every_license_before_the_description() {
        let text = metadata(&licenses::linear_algebra());
        let (fields, description) = text.split_once("\n\n").unwrap();
        assert!(
            fields.contains("\nLicense-File: liblapack.txt\nLicense-File: libgfortran.txt\n"),
            "{fields}"
        );
        assert!(fields.contains("(GPL-3.0-or-later WITH GCC-exception-3.1)"), "{fields}");
        assert!(description.starts_with("# flash"), "{description}");
    }
}
