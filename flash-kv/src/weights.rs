//! Telling models apart by samples of their weights.
//!
//! Equal samples mean equal weights, unless an edit falls between the samples. Two facts tell such models apart without
//! reading more: a hash of a whole file computed elsewhere, and a file modified since it was last seen. `models.json`
//! remembers both, and spares reading the samples of unchanged files again.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::disk::{AtomicFile, Disk, create_dir_synced, lock_dir, system};
use crate::{Digest, FORMAT_VERSION, KvError};

const MODELS_FILE: &str = "models.json";
/// Maximum number of remembered models; the least recently used are dropped first.
const MODELS_MAX: usize = 512;
/// Maximum number of remembered copies of a model; the least recently used are dropped first.
const COPIES_MAX: usize = 16;
/// Minimum age of a change for the timestamp to be trusted. A more recently changed file may change again within the
/// same timestamp: the coarsest file system clock, that of FAT, ticks every two seconds.
const SETTLED: Duration = Duration::from_secs(5);

/// File metadata of a weight file, by which modifications are detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Device number.
    pub device: u64,
    /// Inode number, which may be reused once the file is deleted.
    pub inode: u64,
    /// Creation time in nanoseconds since 1970; `None` on file systems that do not record it.
    pub created_ns: Option<i64>,
    /// Length of the file.
    pub len_bytes: u64,
    /// Modification time of the contents in nanoseconds since 1970. Copies may preserve it, and any program can set it.
    pub modified_ns: i64,
    /// Change time of contents, name or attributes in nanoseconds since 1970.
    pub changed_ns: i64,
}

impl FileStamp {
    /// Returns the stamp of the file that `metadata` describes.
    pub fn new(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            created_ns: metadata.created().ok().map(since_1970),
            len_bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether both stamps are of the same file, modified or not. Always false without a creation time, because inode
    /// numbers are reused.
    fn is_same_file(&self, other: &Self) -> bool {
        self.created_ns.is_some()
            && (self.device, self.inode, self.created_ns) == (other.device, other.inode, other.created_ns)
    }

    fn has_same_contents(&self, other: &Self) -> bool {
        (self.len_bytes, self.modified_ns) == (other.len_bytes, other.modified_ns)
    }

    fn is_settled(&self, now_ns: i64) -> bool {
        now_ns.saturating_sub(self.changed_ns) >= SETTLED.as_nanos() as i64
    }
}

fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// One file of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightFile {
    /// Stamp of the file, taken before its samples are read for [`weights_digest`].
    pub stamp: FileStamp,
    /// SHA-256 of the whole file, if it is known without reading the file.
    pub sha256: Option<Digest>,
}

/// Hash of samples of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledWeights {
    /// Hash of the samples.
    pub digest: Digest,
    /// Whether the samples cover all weights, so that equal hashes mean equal weights.
    pub is_complete: bool,
}

/// Returns a digest of a model's weights for [`Identity::model`](crate::Identity): the hash of their samples, or a
/// different one if `kv_dir` has pages of a model with equal samples but possibly different weights.
///
/// All copies of a model have the same digest, regardless of location and age. A model with known samples gets a digest
/// of its own if
/// - the SHA-256 of one of its files differs from the known one, or
/// - one of its files was modified in place since it was last seen, or
/// - several models with these samples are known, and nothing tells which of them this is.
///
/// `files` are all weight files, in an order that is the same for every copy. `sample` is called unless the files are
/// known and unchanged.
///
/// # Errors
/// Any error of `sample`; [`KvError::ModelsSyntax`] or [`KvError::ModelsVersion`] if `models.json` cannot be parsed,
/// [`KvError::Io`] or [`KvError::DiskFull`] if it cannot be written.
pub fn weights_digest<E: From<KvError>>(
    kv_dir: &Path,
    files: &[WeightFile],
    sample: impl FnOnce() -> Result<SampledWeights, E>,
) -> Result<Digest, E> {
    weights_digest_on(&system(), SystemTime::now(), kv_dir, files, sample)
}

pub(crate) fn weights_digest_on<E: From<KvError>>(
    disk: &Arc<dyn Disk>,
    now: SystemTime,
    kv_dir: &Path,
    files: &[WeightFile],
    sample: impl FnOnce() -> Result<SampledWeights, E>,
) -> Result<Digest, E> {
    let path = kv_dir.join(MODELS_FILE);
    if let Some(digest) = Models::read(&path)?.find_unchanged(files) {
        return Ok(digest);
    }
    let sampled = sample()?;
    if sampled.is_complete {
        return Ok(sampled.digest);
    }
    create_dir_synced(&**disk, kv_dir)?;
    let _locked = lock_dir(kv_dir)?;
    let mut models = Models::read(&path)?;
    let digest = models.add(sampled.digest, files, since_1970(now));
    models.write(disk, path)?;
    disk.sync_dir(kv_dir).map_err(KvError::io(kv_dir, "sync"))?;
    Ok(digest)
}

/// Contents of `models.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Models {
    version: u32,
    /// Models in order of use, the most recent last.
    models: Vec<KnownModel>,
}

/// A model whose samples were read.
#[derive(Debug, Serialize, Deserialize)]
struct KnownModel {
    /// Digest that identifies the model's pages.
    digest: Hex,
    samples: Hex,
    /// SHA-256 of each file, where known.
    sha256: Vec<Option<Hex>>,
    /// Copies of the model in order of use, the most recent last.
    copies: Vec<SeenFiles>,
}

/// Stamps of a copy's files from when their samples were read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SeenFiles {
    /// Whether all stamps were old enough to reveal any later change.
    is_settled: bool,
    files: Vec<FileStamp>,
}

/// A digest as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hex(Digest);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        Digest::from_hex(&digits).map(Self).ok_or_else(|| de::Error::custom("not 64 hexadecimal digits"))
    }
}

impl Models {
    fn read(path: &Path) -> Result<Self, KvError> {
        let none = || Self { version: FORMAT_VERSION, models: Vec::new() };
        let json = match fs::read(path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(none()),
            Err(error) => return Err(KvError::io(path, "read")(error)),
        };
        let syntax = |error| KvError::ModelsSyntax { path: path.to_owned(), error };
        let json: serde_json::Value = serde_json::from_slice(&json).map_err(syntax)?;
        match json["version"].as_u64() {
            // An older version's pages cannot be read, so its models do not matter.
            Some(version) if version < u64::from(FORMAT_VERSION) => return Ok(none()),
            Some(version) if version > u64::from(FORMAT_VERSION) => {
                let got = u32::try_from(version).unwrap_or(u32::MAX);
                return Err(KvError::ModelsVersion { path: path.to_owned(), got });
            }
            _ => {}
        }
        serde_json::from_value(json).map_err(syntax)
    }

    fn write(&self, disk: &Arc<dyn Disk>, path: PathBuf) -> Result<(), KvError> {
        let mut file = AtomicFile::new(disk, path)?;
        file.write(&serde_json::to_vec(self).expect("numbers and strings are JSON"))?;
        file.finish().map(drop)
    }

    /// Returns the digest of the model with exactly these file stamps, if they are settled and nothing contradicts
    /// them.
    fn find_unchanged(&self, files: &[WeightFile]) -> Option<Digest> {
        let stamps = || files.iter().map(|file| &file.stamp);
        let is_unchanged = |copy: &SeenFiles| copy.is_settled && copy.files.iter().eq(stamps());
        let found = self.models.iter().find(|model| model.copies.iter().any(is_unchanged))?;
        (!found.is_contradicted(files)).then_some(found.digest.0)
    }

    /// Finds or adds the model with these samples and files; returns its digest.
    fn add(&mut self, samples: Digest, files: &[WeightFile], now_ns: i64) -> Digest {
        let has_samples = |model: &KnownModel| model.samples.0 == samples;
        let n_known = self.models.iter().filter(|model| has_samples(model)).count();
        let is_this = |model: &KnownModel| {
            has_samples(model) && !model.is_contradicted(files) && (n_known == 1 || model.is_confirmed(files))
        };
        let mut model = match self.models.iter().position(is_this) {
            Some(found) => self.models.remove(found),
            None => KnownModel {
                digest: Hex(if n_known == 0 { samples } else { disambiguated_digest(samples, files) }),
                samples: Hex(samples),
                sha256: vec![None; files.len()],
                copies: Vec::new(),
            },
        };
        model.record(files, now_ns);
        let digest = model.digest.0;
        self.models.push(model);
        self.models.drain(..self.models.len().saturating_sub(MODELS_MAX));
        digest
    }
}

impl KnownModel {
    /// Whether the files cannot belong to this model: a hash differs, or a file was modified in place.
    fn is_contradicted(&self, files: &[WeightFile]) -> bool {
        let other_hash = files.len() != self.sha256.len()
            || files.iter().zip(&self.sha256).any(|(file, known)| match (file.sha256, known) {
                (Some(hash), Some(known)) => hash != known.0,
                _ => false,
            });
        let was_written =
            |file: &WeightFile| self.stamps_of(file).any(|known| !known.has_same_contents(&file.stamp));
        other_hash || files.iter().any(was_written)
    }

    /// Whether every file is known to belong to this model.
    fn is_confirmed(&self, files: &[WeightFile]) -> bool {
        files.iter().zip(&self.sha256).all(|(file, known)| {
            let has_hash =
                file.sha256.is_some_and(|hash| known.as_ref().is_some_and(|known| known.0 == hash));
            has_hash || self.stamps_of(file).any(|known| known.has_same_contents(&file.stamp))
        })
    }

    /// Iterates over the remembered stamps of the same file.
    fn stamps_of(&self, file: &WeightFile) -> impl Iterator<Item = &FileStamp> {
        let all = self.copies.iter().flat_map(|copy| &copy.files);
        all.filter(move |known| known.is_same_file(&file.stamp))
    }

    /// Records the files, replacing older stamps of the same copy.
    fn record(&mut self, files: &[WeightFile], now_ns: i64) {
        for (known, file) in self.sha256.iter_mut().zip(files) {
            *known = known.take().or(file.sha256.map(Hex));
        }
        let is_settled = files.iter().all(|file| file.stamp.is_settled(now_ns));
        let seen = SeenFiles { is_settled, files: files.iter().map(|file| file.stamp).collect() };
        let place = |copy: &SeenFiles| -> Vec<_> {
            copy.files.iter().map(|file| (file.device, file.inode)).collect()
        };
        self.copies.retain(|copy| place(copy) != place(&seen));
        self.copies.push(seen);
        self.copies.drain(..self.copies.len().saturating_sub(COPIES_MAX));
    }
}

/// Returns the digest of a model whose samples equal those of another. It is derived from the files, so that it is
/// reproduced if `models.json` drops the model.
fn disambiguated_digest(samples: Digest, files: &[WeightFile]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("flash-kv weights with the samples of others");
    hasher.update(&samples.0);
    for WeightFile { stamp, sha256 } in files {
        let FileStamp { device, inode, created_ns, len_bytes, modified_ns, .. } = stamp;
        for number in [*device, *inode, *len_bytes] {
            hasher.update(&number.to_le_bytes());
        }
        for number in [created_ns.unwrap_or(i64::MIN), *modified_ns] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&sha256.unwrap_or(Digest([0; 32])).0);
    }
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
