//! Models whose pages a directory holds, where samples are all that was read of their weights.
//!
//! Equal samples mean equal weights but for an edit between them. Two things tell such models apart without reading more: a
//! hash of a whole file that someone else took, and a file that was written to since it was seen last. `models.json` remembers
//! both. It also spares reading the samples of files that have not changed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::disk::{Disk, Replacement, hold, make_dir, system};
use crate::{Digest, FORMAT_VERSION, KvError};

const MODELS_FILE: &str = "models.json";
/// Models that are remembered; those that were used the longest ago are forgotten first.
const MODELS_MAX: usize = 512;
/// Sets of files that are remembered of a model, likewise.
const COPIES_MAX: usize = 16;
/// A file that was changed more recently may be changed again without a new time: the coarsest clock of a file system, that of
/// FAT, ticks every two seconds.
const SETTLED: Duration = Duration::from_secs(5);

/// A file of weights as the system knows it: enough to tell whether it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// The device that holds it.
    pub device: u64,
    /// Its number there, which another file may get when it is gone.
    pub inode: u64,
    /// When the file was made, in nanoseconds since 1970; `None` on file systems that do not say.
    pub created_ns: Option<i64>,
    /// Its length.
    pub len_bytes: u64,
    /// When its contents were changed last, in nanoseconds since 1970. Copies may keep it, and anyone may set it.
    pub modified_ns: i64,
    /// When its contents, name or attributes were changed last, in nanoseconds since 1970.
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

    /// Whether both are of one file, whatever happened to it. Without the time at which it was made nobody knows: the number of
    /// a file that is gone is used again.
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
    /// Taken before anything is read that [`weights_digest`] asks for.
    pub stamp: FileStamp,
    /// The SHA-256 of the whole file, if someone else took it and it is known without reading the file.
    pub sha256: Option<Digest>,
}

/// A hash of samples of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledWeights {
    /// The hash.
    pub digest: Digest,
    /// Whether the samples are all there is: then equal hashes mean equal weights.
    pub is_complete: bool,
}

/// Returns a digest of a model's weights for [`Identity::model`](crate::Identity): the hash of their samples, or another one if
/// pages in `kv_dir` are those of a model that has equal samples and is known to be, or may be, another.
///
/// Copies of a model have one digest, wherever they lie and however old they are. A model gets a digest of its own, although
/// its samples are known, if
/// - a whole hash of one of its files is not the one that is known, or
/// - one of its files was written to since it was seen last, in place, or
/// - several models are known that have these samples, and nothing says which of them this is.
///
/// `files` are all of them, in an order that copies share. `sample` is called if they are not known as they are.
///
/// # Errors
/// Whatever `sample` returns; [`KvError::ModelsSyntax`] or [`KvError::ModelsVersion`] if what is known cannot be read,
/// [`KvError::Io`] or [`KvError::DiskFull`] if it cannot be kept.
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
    if let Some(digest) = Models::read(&path)?.unchanged(files) {
        return Ok(digest);
    }
    let sampled = sample()?;
    if sampled.is_complete {
        return Ok(sampled.digest);
    }
    make_dir(&**disk, kv_dir)?;
    let _held = hold(kv_dir)?;
    let mut models = Models::read(&path)?;
    let digest = models.add(sampled.digest, files, since_1970(now));
    models.write(disk, path)?;
    disk.sync_dir(kv_dir).map_err(KvError::io(kv_dir, "sync"))?;
    Ok(digest)
}

/// `models.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Models {
    version: u32,
    /// The one that was used last comes last.
    models: Vec<KnownModel>,
}

/// A model whose samples were read.
#[derive(Debug, Serialize, Deserialize)]
struct KnownModel {
    /// What its pages are told from others by.
    digest: Hex,
    samples: Hex,
    /// Of each file, as far as it is known.
    sha256: Vec<Option<Hex>>,
    /// Where it was seen, the last place last.
    copies: Vec<SeenFiles>,
}

/// The files of a model as they were when their samples were read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SeenFiles {
    /// Whether none of them can have changed since without a new time.
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
            // What it names has pages that this version does not read.
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
        let mut file = Replacement::new(disk, path)?;
        file.write(&serde_json::to_vec(self).expect("numbers and strings are JSON"))?;
        file.finish().map(drop)
    }

    /// The digest of the model that has these files, if none of them was touched since its samples were read.
    fn unchanged(&self, files: &[WeightFile]) -> Option<Digest> {
        let stamps = || files.iter().map(|file| &file.stamp);
        let is_unchanged = |copy: &SeenFiles| copy.is_settled && copy.files.iter().eq(stamps());
        let found = self.models.iter().find(|model| model.copies.iter().any(is_unchanged))?;
        (!found.is_contradicted(files)).then_some(found.digest.0)
    }

    /// Finds the model that has these samples and files, or makes it known; returns its digest.
    fn add(&mut self, samples: Digest, files: &[WeightFile], now_ns: i64) -> Digest {
        let of_samples = |model: &KnownModel| model.samples.0 == samples;
        let n_known = self.models.iter().filter(|model| of_samples(model)).count();
        let is_this = |model: &KnownModel| {
            of_samples(model) && !model.is_contradicted(files) && (n_known == 1 || model.is_confirmed(files))
        };
        let mut model = match self.models.iter().position(is_this) {
            Some(found) => self.models.remove(found),
            None => KnownModel {
                digest: Hex(if n_known == 0 { samples } else { digest_of_another(samples, files) }),
                samples: Hex(samples),
                sha256: vec![None; files.len()],
                copies: Vec::new(),
            },
        };
        model.see(files, now_ns);
        let digest = model.digest.0;
        self.models.push(model);
        self.models.drain(..self.models.len().saturating_sub(MODELS_MAX));
        digest
    }
}

impl KnownModel {
    /// Whether the files cannot be those of this model.
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

    /// Whether each of the files is known to be one of this model.
    fn is_confirmed(&self, files: &[WeightFile]) -> bool {
        files.iter().zip(&self.sha256).all(|(file, known)| {
            let has_hash =
                file.sha256.is_some_and(|hash| known.as_ref().is_some_and(|known| known.0 == hash));
            has_hash || self.stamps_of(file).any(|known| known.has_same_contents(&file.stamp))
        })
    }

    /// What is known of that very file.
    fn stamps_of(&self, file: &WeightFile) -> impl Iterator<Item = &FileStamp> {
        let all = self.copies.iter().flat_map(|copy| &copy.files);
        all.filter(move |known| known.is_same_file(&file.stamp))
    }

    /// Remembers the files, in place of what was known of them.
    fn see(&mut self, files: &[WeightFile], now_ns: i64) {
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

/// The digest of a model whose samples are those of another: it follows from its files, so that it is the same again if it is
/// ever forgotten.
fn digest_of_another(samples: Digest, files: &[WeightFile]) -> Digest {
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
