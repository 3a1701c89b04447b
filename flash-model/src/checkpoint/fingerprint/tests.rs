//! Cost of a fingerprint, and the changes that it detects.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU64, Ordering};

use flash_io::{IoMode, ReadAt};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::checkpoint::samples::WHOLE_BYTES;

/// Writes sparse shards: files with headers for contiguous tensors of these sizes, and no data.
fn sparse(shards: &[Vec<(String, u64)>]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (shard_idx, tensors) in shards.iter().enumerate() {
        let mut header = Map::new();
        let mut offset = 0;
        for (name, len_bytes) in tensors {
            let end = offset + len_bytes;
            let tensor = json!({ "dtype": "U8", "shape": [len_bytes], "data_offsets": [offset, end] });
            header.insert(name.clone(), tensor);
            offset = end;
        }
        let header = Value::Object(header).to_string();
        let mut file = File::create(dir.path().join(format!("model-{shard_idx:03}.safetensors"))).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(8 + header.len() as u64 + offset).unwrap();
    }
    dir
}

/// Storage whose bytes are a function of their offset, with one byte flipped; counts reads.
#[derive(Debug, Default)]
struct Noise {
    /// Offset of the flipped byte.
    flipped: Option<u64>,
    n_reads: Arc<AtomicU64>,
    read_bytes: Arc<AtomicU64>,
}

impl ReadAt for Noise {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        for (at, byte) in (offset..).zip(&mut *buf) {
            *byte = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
        if let Some(at) = self.flipped.filter(|at| (offset..offset + buf.len() as u64).contains(at)) {
            buf[(at - offset) as usize] ^= 1;
        }
        Ok(buf.len())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn alignment(&self) -> usize {
        1
    }
}

fn open(dir: &TempDir) -> Catalog {
    Catalog::open(dir.path(), IoMode::Pread).unwrap()
}

/// Returns the hash with a byte of the first shard flipped.
fn flipped(catalog: &Catalog, at: Option<u64>) -> Digest {
    let mut is_first = true;
    let catalog = catalog.clone().map_storage(|_, _| {
        let flipped = at.filter(|_| is_first);
        is_first = false;
        Arc::new(Noise { flipped, ..Noise::default() })
    });
    sampled_weights(&catalog).unwrap().digest
}

/// Returns the number of reads, the bytes read, and whether those were all bytes.
fn cost(catalog: Catalog) -> (u64, u64, bool) {
    let counts = Noise::default();
    let catalog = catalog.map_storage(|_, _| {
        let (n_reads, read_bytes) = (Arc::clone(&counts.n_reads), Arc::clone(&counts.read_bytes));
        Arc::new(Noise { flipped: None, n_reads, read_bytes })
    });
    let is_complete = sampled_weights(&catalog).unwrap().is_complete;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    (count(&counts.n_reads), count(&counts.read_bytes), is_complete)
}

/// Tensor sizes of 48 mixture-of-experts layers at 4 bits, 17 GB: 128 experts stacked in nine tensors, or with separate
/// tensors.
fn mixture(are_stacked: bool) -> Vec<Vec<(String, u64)>> {
    let layer = |layer_idx: usize| {
        let mut tensors: Vec<(String, u64)> = Vec::new();
        let mut add =
            |name: String, len_bytes| tensors.push((format!("layers.{layer_idx}.{name}"), len_bytes));
        for name in ["gate", "up", "down"] {
            for (part, len_bytes) in [("weight", 786_432), ("scales", 49_152), ("biases", 49_152)] {
                if are_stacked {
                    add(format!("{name}.{part}"), 128 * len_bytes);
                } else if part == "weight" {
                    (0..128).for_each(|idx| add(format!("{idx}.{name}"), len_bytes + 98_304));
                }
            }
        }
        for norm in 0..4 {
            add(format!("norm.{norm}"), 4096);
        }
        for name in ["q", "k", "v", "o"] {
            for (part, len_bytes) in [("weight", 4_194_304), ("scales", 262_144), ("biases", 262_144)] {
                add(format!("{name}.{part}"), len_bytes);
            }
        }
        tensors
    };
    (0..48).map(layer).collect()
}

#[test]
fn samples_of_17_gb_take_a_few_thousand_reads_and_cover_every_tensor() {
    for (are_stacked, n_reads_max) in [(true, 3600), (false, 12_000)] {
        let shards = mixture(are_stacked);
        let dir = sparse(&shards);
        let catalog = open(&dir);
        assert!(catalog.total_bytes() > 16_000_000_000);
        let (n_reads, read_bytes, is_complete) = cost(catalog.clone());
        assert!(!is_complete && n_reads <= n_reads_max, "{n_reads} reads");
        assert!(read_bytes <= 64 << 20, "{read_bytes} B");
        let spans = Samples::of(&catalog).spans;
        for tensor in catalog.tensors() {
            let seen_bytes = |(shard, span): &(ShardIdx, Span)| match *shard == tensor.shard {
                true => span.intersection(&tensor.span).len_bytes(),
                false => 0,
            };
            let first =
                spans.partition_point(|(shard, span)| (*shard, span.end) < (tensor.shard, tensor.span.start));
            let seen_bytes: u64 = spans[first..].iter().take(200).map(seen_bytes).sum();
            assert!(seen_bytes >= tensor.span.len_bytes().min(2 << 10), "{}: {seen_bytes} B", tensor.name);
        }
    }
}

#[test]
fn no_run_of_a_thousandth_of_all_bytes_is_without_a_sample() {
    for are_stacked in [true, false] {
        let dir = sparse(&mixture(are_stacked));
        let catalog = open(&dir);
        let spans = Samples::of(&catalog).spans;
        let gap = |pair: &[(ShardIdx, Span)]| match pair[0].0 == pair[1].0 {
            true => pair[1].1.start - pair[0].1.end,
            false => 0,
        };
        let widest_bytes = spans.windows(2).map(gap).max().unwrap();
        assert!(widest_bytes < catalog.total_bytes() / 1000, "{widest_bytes} B are not looked at");
    }
}

#[test]
fn a_small_checkpoint_is_read_whole_and_once() {
    let dir = sparse(&[vec![("a".into(), 5000), ("b".into(), 20 << 20)], vec![("c".into(), 1)]]);
    let (_, read_bytes, is_complete) = cost(open(&dir));
    assert_eq!((read_bytes, is_complete), (5001 + (20 << 20), true));
    let catalog = open(&dir);
    let data = catalog.get("a").unwrap().span.start;
    let plain = flipped(&catalog, None);
    assert_eq!(flipped(&catalog, None), plain);
    // Around the borders of tensors and batches, and elsewhere.
    for at in [0, 4999, 5000, 1 << 20, (1 << 20) + 4999, 2 << 20, 12_345_678, (20 << 20) + 4999] {
        assert_ne!(flipped(&catalog, Some(data + at)), plain, "{at}");
    }
    assert_eq!(flipped(&catalog, Some(data + (20 << 20) + 5000)), plain, "outside of all tensors");
}

#[test]
fn a_changed_end_of_any_tensor_and_any_byte_of_a_small_one_is_seen() {
    let lens = [(8 << 20) + 7, 16 << 10, 3, WHOLE_BYTES, 4096, 100_000];
    let tensors = (0..).zip(lens).map(|(i, len_bytes): (usize, u64)| (format!("t{i}"), len_bytes)).collect();
    let dir = sparse(&[tensors]);
    let catalog = open(&dir);
    let (_, read_bytes, is_complete) = cost(catalog.clone());
    assert!(!is_complete && read_bytes < WHOLE_BYTES, "{read_bytes} B");
    let plain = flipped(&catalog, None);
    for tensor in catalog.tensors() {
        let Span { start, end } = tensor.span;
        let len_bytes = tensor.span.len_bytes();
        let small = [0, 1, 2, 3, 4, 5, 6, 7].map(|eighth| start + eighth * len_bytes / 8);
        let ends = [start, (start + 8191).min(end - 1), end.saturating_sub(8192).max(start), end - 1];
        for at in ends.into_iter().chain(small.into_iter().filter(|_| len_bytes <= 16 << 10)) {
            assert_ne!(flipped(&catalog, Some(at)), plain, "{} at {}", tensor.name, at - start);
        }
    }
}

#[test]
fn headers_are_part_of_the_hash() {
    let digest = |tensors: &[(&str, u64)]| {
        let tensors = tensors.iter().map(|(name, len_bytes)| ((*name).to_owned(), *len_bytes)).collect();
        sampled_weights(&open(&sparse(&[tensors]))).unwrap().digest
    };
    // All bytes are zero.
    let plain = digest(&[("a", 10), ("b", 20)]);
    assert_eq!(digest(&[("a", 10), ("b", 20)]), plain);
    for other in [&[("a", 20), ("b", 10)][..], &[("a", 10), ("c", 20)], &[("a", 30)], &[("ab", 10), ("", 20)]]
    {
        assert_ne!(digest(other), plain, "{other:?}");
    }
}

#[test]
fn a_truncated_shard_is_an_error_with_its_path() {
    let dir = sparse(&[vec![("a".into(), 100_000)]]);
    let catalog = open(&dir);
    let path = catalog.shards()[0].path.clone();
    File::options().write(true).open(&path).unwrap().set_len(50_000).unwrap();
    let error = sampled_weights(&catalog).unwrap_err();
    assert!(matches!(error, ModelError::Io(flash_io::IoError::ReadFailed { .. })), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_file_in_the_hub_cache_has_the_hash_in_its_name_and_a_copy_has_none() {
    let hub = sparse(&[vec![("a".into(), 100)]]);
    let name = "0123456789abcdef".repeat(4);
    let (blobs, snapshot) = (hub.path().join("blobs"), hub.path().join("snapshots/main"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::rename(hub.path().join("model-000.safetensors"), blobs.join(&name)).unwrap();
    symlink(format!("../../blobs/{name}"), snapshot.join("model.safetensors")).unwrap();
    let files = |dir: &Path| weight_files(&Catalog::open(dir, IoMode::Pread).unwrap()).unwrap().unwrap();
    let [file] = files(&snapshot)[..] else { panic!("one shard") };
    assert_eq!(file.sha256.map(|hash| hash.to_string()), Some(name.clone()));
    let copy = tempfile::tempdir().unwrap();
    fs::copy(blobs.join(&name), copy.path().join("model.safetensors")).unwrap();
    assert_eq!(files(copy.path())[0].sha256, None);
    // The name now refers to another file.
    let catalog = Catalog::open(&snapshot, IoMode::Pread).unwrap();
    fs::rename(copy.path().join("model.safetensors"), blobs.join(&name)).unwrap();
    assert_eq!(weight_files(&catalog).unwrap().unwrap()[0].sha256, None);
    let elsewhere = catalog.map_storage(|_, _| Arc::new(Noise::default()));
    assert!(weight_files(&elsewhere).unwrap().is_none());
}
