//! Telling models with equal samples apart.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::disk::crash::{Fault, FaultyDisk};

const SAMPLES: Digest = Digest([7; 32]);
const DAY: i64 = 86_400_000_000_000;

/// Returns a file created and modified at midnight of `day`.
fn file(inode: u64, day: i64) -> WeightFile {
    let ns = day * DAY;
    let stamp = FileStamp {
        device: 1,
        inode,
        created_ns: Some(ns),
        len_bytes: 1 << 30,
        modified_ns: ns,
        changed_ns: ns,
    };
    WeightFile { stamp, sha256: None }
}

fn hashed(file: WeightFile, byte: u8) -> WeightFile {
    WeightFile { sha256: Some(Digest([byte; 32])), ..file }
}

/// Returns the same file, modified on `day` (contents or timestamp only).
fn written(file: WeightFile, day: i64) -> WeightFile {
    let stamp = FileStamp { modified_ns: day * DAY, changed_ns: day * DAY, ..file.stamp };
    WeightFile { stamp, ..file }
}

struct Bench {
    dir: tempfile::TempDir,
    n_sampled: Cell<usize>,
    samples: SampledWeights,
}

impl Bench {
    fn new() -> Self {
        let samples = SampledWeights { digest: SAMPLES, is_complete: false };
        Self { dir: tempfile::tempdir().unwrap(), n_sampled: Cell::new(0), samples }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(MODELS_FILE)
    }

    /// Returns the digest of a model of these files on the morning of day 100.
    fn digest(&self, files: &[WeightFile]) -> Digest {
        self.try_digest(files).unwrap()
    }

    fn try_digest(&self, files: &[WeightFile]) -> Result<Digest, KvError> {
        self.digest_on(&system(), files)
    }

    fn digest_on(&self, disk: &Arc<dyn Disk>, files: &[WeightFile]) -> Result<Digest, KvError> {
        let now = UNIX_EPOCH + Duration::from_nanos(100 * DAY as u64 + 1);
        weights_digest_on(disk, now, self.dir.path(), files, || {
            self.n_sampled.set(self.n_sampled.get() + 1);
            Ok(self.samples)
        })
    }
}

#[test]
fn copies_moves_and_downloads_of_a_model_have_the_digest_of_its_samples() {
    let bench = Bench::new();
    let first = [file(1, 10), hashed(file(2, 10), 5)];
    assert_eq!(bench.digest(&first), SAMPLES);
    // Copies elsewhere, later, with and without a hash, and with the reused inode of a deleted file.
    for files in [
        [file(3, 20), file(4, 20)],
        [hashed(file(5, 30), 6), hashed(file(6, 30), 5)],
        [file(1, 40), file(2, 40)],
    ] {
        assert_eq!(bench.digest(&files), SAMPLES);
    }
}

#[test]
fn unchanged_files_are_not_sampled_again() {
    let bench = Bench::new();
    let files = [file(1, 10), file(2, 10)];
    let moved = [file(1, 10), written(file(2, 10), 50)]
        .map(|file| WeightFile { stamp: FileStamp { modified_ns: 10 * DAY, ..file.stamp }, ..file });
    for (files, n_sampled) in [(&files, 1), (&files, 1), (&moved, 2), (&moved, 2), (&files, 3)] {
        assert_eq!(bench.digest(files), SAMPLES);
        assert_eq!(bench.n_sampled.get(), n_sampled);
    }
}

#[test]
fn recently_modified_files_are_sampled_again() {
    let bench = Bench::new();
    for n_sampled in 1..4 {
        bench.digest(&[file(1, 10), file(2, 100)]);
        assert_eq!(bench.n_sampled.get(), n_sampled, "the file may change again within the same timestamp");
    }
}

#[test]
fn models_with_equal_samples_are_told_apart_by_file_hashes() {
    let bench = Bench::new();
    let [one, two] = [hashed(file(1, 10), 1), hashed(file(2, 10), 2)].map(|file| [file]);
    assert_eq!(bench.digest(&one), SAMPLES);
    let second = bench.digest(&two);
    assert_ne!(second, SAMPLES);
    assert_eq!((bench.digest(&one), bench.digest(&two)), (SAMPLES, second));
    assert_eq!(bench.digest(&[hashed(file(3, 20), 2)]), second, "another copy with that hash");
    // Nothing tells which of the two models these files are.
    let third = bench.digest(&[file(4, 20)]);
    assert!(third != SAMPLES && third != second);
    assert_eq!(bench.digest(&[file(4, 20)]), third);
    let fourth = bench.digest(&[file(5, 20)]);
    assert!([SAMPLES, second, third].iter().all(|known| *known != fourth));
}

#[test]
fn a_file_modified_in_place_is_another_model() {
    let bench = Bench::new();
    let file = file(1, 10);
    assert_eq!(bench.digest(&[file]), SAMPLES);
    let written = written(file, 50);
    let second = bench.digest(&[written]);
    assert_ne!(second, SAMPLES);
    assert_eq!(bench.digest(&[written]), second);
    assert_eq!(bench.digest(&[file]), SAMPLES, "its modification time was set back");
    let longer = WeightFile { stamp: FileStamp { len_bytes: 1 << 31, ..file.stamp }, ..file };
    assert!(![SAMPLES, second].contains(&bench.digest(&[longer])));
}

#[test]
fn without_creation_times_modified_files_are_not_detected() {
    let bench = Bench::new();
    let anonymous =
        |file: WeightFile| WeightFile { stamp: FileStamp { created_ns: None, ..file.stamp }, ..file };
    assert_eq!(bench.digest(&[anonymous(file(1, 10))]), SAMPLES);
    assert_eq!(bench.digest(&[anonymous(file(1, 50))]), SAMPLES, "the inode may be reused");
}

#[test]
fn completely_sampled_weights_are_not_listed() {
    let mut bench = Bench::new();
    bench.samples.is_complete = true;
    for files in [file(1, 10), written(file(1, 10), 50), hashed(file(2, 10), 1), hashed(file(2, 10), 2)] {
        assert_eq!(bench.digest(&[files]), SAMPLES);
    }
    assert!(!bench.path().exists());
}

#[test]
fn other_samples_are_another_model_and_the_list_stays_short() {
    let mut bench = Bench::new();
    for n in 0..MODELS_MAX as u64 + 9 {
        bench.samples.digest = Digest(*blake3::hash(&n.to_le_bytes()).as_bytes());
        assert_eq!(bench.digest(&[file(n, 10)]), bench.samples.digest);
    }
    for n in 0..COPIES_MAX as u64 + 9 {
        assert_eq!(bench.digest(&[file(10_000 + n, 10)]), bench.samples.digest);
    }
    let models = Models::read(&bench.path()).unwrap().models;
    assert_eq!(models.len(), MODELS_MAX);
    assert_eq!(models.last().unwrap().copies.len(), COPIES_MAX);
}

#[test]
fn an_unreadable_list_is_an_error_and_an_older_one_is_replaced() {
    let bench = Bench::new();
    let files = [hashed(file(1, 10), 1)];
    bench.digest(&files);
    let good = fs::read_to_string(bench.path()).unwrap();
    let version =
        |n: u32| good.replace(&format!("\"version\":{FORMAT_VERSION}"), &format!("\"version\":{n}"));
    for broken in ["", "{", "[]", "{}", &good.replace("\"07", "\"7"), &good.replace("models", "model")] {
        fs::write(bench.path(), broken).unwrap();
        let error = bench.try_digest(&files).unwrap_err();
        assert!(matches!(&error, KvError::ModelsSyntax { path, .. } if *path == bench.path()), "{error}");
    }
    fs::write(bench.path(), version(FORMAT_VERSION + 1)).unwrap();
    assert!(matches!(bench.try_digest(&files), Err(KvError::ModelsVersion { .. })));
    fs::write(bench.path(), version(FORMAT_VERSION - 1)).unwrap();
    assert_eq!(bench.digest(&[hashed(file(2, 10), 2)]), SAMPLES);
}

#[test]
fn digests_are_stable_across_a_crash_at_any_operation() {
    let [one, two] = [[hashed(file(1, 10), 1)], [hashed(file(2, 10), 2)]];
    for fault in [Fault::Crash, Fault::Fail, Fault::Full] {
        for seed in 0..2 {
            for at in 1.. {
                let bench = Bench::new();
                let disk = Arc::new(FaultyDisk::new(bench.dir.path(), fault, at, seed));
                let shared: Arc<dyn Disk> = Arc::clone(&disk) as _;
                let given = [&one, &two].map(|files| bench.digest_on(&shared, files).ok());
                disk.end();
                let again = [&one, &two].map(|files| bench.digest(files));
                assert_ne!(again[0], again[1]);
                for (given, again) in given.iter().zip(again) {
                    assert!(given.is_none_or(|given| given == again), "{fault:?} {at} {seed}");
                }
                if disk.n_operations() < at {
                    assert!(given.iter().all(Option::is_some));
                    break;
                }
            }
        }
    }
}

#[test]
fn stamps_follow_a_file_and_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let stamp = |path: &Path| FileStamp::new(&fs::metadata(path).unwrap());
    let (path, other) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&path, "weights").unwrap();
    let first = stamp(&path);
    assert_eq!(first.len_bytes, 7);
    fs::rename(&path, &other).unwrap();
    let moved = stamp(&other);
    assert!(moved.has_same_contents(&first) && (first.created_ns.is_none() || moved.is_same_file(&first)));
    fs::copy(&other, &path).unwrap();
    assert!(!stamp(&path).is_same_file(&first));
    let file = fs::File::options().write(true).open(&other).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    assert!(!stamp(&other).has_same_contents(&first));
    assert_eq!(stamp(&other).modified_ns, 1_000_000_000);
}
