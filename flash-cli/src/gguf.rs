//! GGUF files that are given as a model: converted once, to a directory in the cache.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use flash_convert::{Conversion, Plan, Target};
use sha2::{Digest, Sha256};

use crate::output::note;
use crate::progress::with_progress;
use crate::{cache, layers};

/// First bytes of a GGUF file.
const MAGIC: &[u8] = b"GGUF";

/// First bytes of a file that are compared whole: its metadata with the tokenizer, in which every byte counts.
const METADATA_BYTES: u64 = 32 << 20;
/// Samples of the weights, at equal distances, and the bytes of each.
const SAMPLES: u64 = 256;
const SAMPLE_BYTES: u64 = 4096;

/// Version of the conversion, to be changed when it makes other directories of the same files.
const CONVERSION: u64 = 1;

/// Maximum size of a shard of the directory, as the default of `convert --shard-size`.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Whether a file is GGUF. Unreadable files are not: opening them reports the cause.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && start == MAGIC
}

/// Returns a model directory with the weights of a GGUF file, without loss where MLX has the format. The file is converted if the
/// cache has no such directory; it is recognized by its name, its length, its metadata and samples of its weights.
///
/// # Errors
/// If the file is invalid or of an unsupported architecture, or the directory cannot be written.
pub(crate) fn directory(gguf: &Path) -> anyhow::Result<PathBuf> {
    let out = cache::gguf_dir().join(name(gguf).with_context(|| gguf.display().to_string())?);
    if out.exists() {
        return Ok(out);
    }
    let conversion = Conversion::open(gguf)?;
    let plan = conversion.plan(Target::Keep, SHARD_BYTES)?;
    note(&format!("Converting {} to {}, once", gguf.display(), out.display()));
    note_lossy(&plan);
    let parent = out.parent().expect("joined above");
    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    match with_progress(plan.total_bytes(), |progress| plan.run(&out, progress)) {
        // Another process was faster, before or while this one converted.
        Err(_) if out.exists() => Ok(out),
        converted => converted.map(|_| out),
    }
}

/// Prints the tensors that cannot be converted without loss, with one line for all layers.
pub(crate) fn note_lossy(plan: &Plan<'_>) {
    let mut changes: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in plan.lossy() {
        let name = layers::collapse(&tensor.name);
        *changes.entry(format!("{name}: {} becomes {}", tensor.from, tensor.becomes)).or_default() += 1;
    }
    if changes.is_empty() {
        return;
    }
    note("These tensors cannot be converted without loss:");
    for (change, n_tensors) in changes {
        note(&format!("  {n_tensors} × {change}"));
    }
}

/// Returns the name of the directory of a file: its own name, and a hash of its length, metadata and samples.
fn name(gguf: &Path) -> io::Result<String> {
    let mut file = File::open(gguf)?;
    let len_bytes = file.metadata()?.len();
    let mut hasher = Sha256::new();
    hasher.update(CONVERSION.to_le_bytes());
    hasher.update(len_bytes.to_le_bytes());
    let mut sample = Vec::new();
    Read::by_ref(&mut file).take(METADATA_BYTES).read_to_end(&mut sample)?;
    hasher.update(&sample);
    for idx in 0..SAMPLES {
        let last = len_bytes.saturating_sub(SAMPLE_BYTES);
        file.seek(SeekFrom::Start(last * idx / (SAMPLES - 1)))?;
        sample.clear();
        Read::by_ref(&mut file).take(SAMPLE_BYTES).read_to_end(&mut sample)?;
        hasher.update(&sample);
    }
    let hash: String = hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let stem = gguf.file_stem().and_then(OsStr::to_str).unwrap_or("model");
    Ok(format!("{stem}-{hash}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_name_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a.gguf", "b.gguf"].map(|name| dir.path().join(name));
        let mut bytes = vec![7; 3 << 20];
        std::fs::write(&a, &bytes).unwrap();
        let first = name(&a).unwrap();
        assert!(first.starts_with("a-") && first.len() == 18, "{first}");
        std::fs::write(&b, &bytes).unwrap();
        assert_eq!(name(&b).unwrap()[2..], first[2..]);
        // Between two samples, as a token id in the metadata may be.
        bytes[9001] = 8;
        std::fs::write(&a, &bytes).unwrap();
        let changed = name(&a).unwrap();
        assert_ne!(changed, first);
        *bytes.last_mut().unwrap() = 8;
        std::fs::write(&a, &bytes).unwrap();
        assert_ne!(name(&a).unwrap(), changed);
        std::fs::write(&a, b"").unwrap();
        assert!(name(&a).is_ok(), "an empty file has a name, too");
    }

    #[test]
    fn only_files_with_the_magic_are_gguf() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (bytes, is) in [(&b"GGUF\x03\0\0\0"[..], true), (b"GGU", false), (b"{\"a\": 1}", false)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(is_gguf(&path), is);
        }
        assert!(!is_gguf(dir.path()) && !is_gguf(&dir.path().join("missing")));
    }
}
