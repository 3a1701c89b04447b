//! Contexts belong to weights: those of other weights are rejected, and those of copies are accepted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flash_io::{Catalog, IoMode, Tensor};
use flash_kv::KvError;
use flash_model::{Checkpoint, EngineOptions, KvPolicy, Model, ModelError, Resumption, Workload};

use crate::bench::{TINY, tokens};
use crate::tiny::{Format, Tiny};

const TOKENS: usize = 400;
const SHARD: &str = "model.safetensors";

/// A directory for models, and one for their caches.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn kv_dir(&self) -> PathBuf {
        self.0.path().join("kv")
    }

    /// Writes the model to a directory of this name.
    fn write(&self, name: &str, tiny: &Tiny) -> PathBuf {
        let dir = self.0.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        tiny.write(&dir);
        dir
    }

    /// Copies a model to a directory of this name, file by file.
    fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let dir = self.0.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        for file in ["config.json", SHARD] {
            fs::write(dir.join(file), fs::read(from.join(file)).unwrap()).unwrap();
        }
        dir
    }

    /// Runs a prompt, shares it as a prefix and saves it.
    fn keep(&self, dir: &Path) {
        let (model, options) = self.model(dir, true);
        let mut engine = model.load(&options).unwrap();
        engine.forward(&tokens(TOKENS)).unwrap();
        engine.share_prefix(TOKENS).unwrap();
        engine.save_as("talk", |_| Ok::<_, ModelError>(())).unwrap();
    }

    fn model(&self, dir: &Path, share_prefixes: bool) -> (Model, EngineOptions) {
        let model = Model::open(Checkpoint::open(dir, IoMode::Pread).unwrap()).unwrap();
        let workload = Workload::new(2 * TOKENS, 2 * TOKENS);
        let mut options = EngineOptions::new(1 << 40, workload);
        (options.kv_dir, options.share_prefixes) = (self.kv_dir(), share_prefixes);
        (model, options)
    }

    /// Returns the tokens of the prompt that a run finds cached, and how the session resumes.
    fn found(&self, dir: &Path) -> (usize, Result<Resumption, ModelError>) {
        let (model, options) = self.model(dir, true);
        let reused = model.load(&options).unwrap().reuse(&tokens(TOKENS)).unwrap();
        let (model, options) = self.model(dir, false);
        let resumed = model.open_session(&self.kv_dir(), "talk", &KvPolicy::default());
        // A run without sessions or prefixes computes the model's identity on demand.
        let mut engine = model.load(&options).unwrap();
        match &resumed {
            Ok(_) => {}
            Err(_) => {
                let taken = engine.take_from("talk", |_| Ok::<_, ModelError>(()));
                assert!(matches!(taken, Err(ModelError::Kv(KvError::ModelMismatch { .. }))), "{taken:?}");
            }
        }
        (
            reused,
            resumed.map(|context| match context.resumption() {
                Resumption::New => Resumption::New,
                Resumption::Saved { is_exact } => Resumption::Saved { is_exact: *is_exact },
                other => panic!("{other:?}"),
            }),
        )
    }

    #[track_caller]
    fn assert_shares(&self, dir: &Path) {
        let (reused, resumed) = self.found(dir);
        assert_eq!(reused, TOKENS / 128 * 128);
        assert!(matches!(resumed, Ok(Resumption::Saved { is_exact: true })), "{resumed:?}");
    }

    #[track_caller]
    fn assert_other(&self, dir: &Path) {
        let (reused, resumed) = self.found(dir);
        assert_eq!(reused, 0);
        assert!(matches!(resumed, Err(ModelError::Kv(KvError::ModelMismatch { .. }))), "{resumed:?}");
    }
}

fn catalog(dir: &Path) -> Catalog {
    Catalog::open(dir, IoMode::Pread).unwrap()
}

fn tensor(dir: &Path, name: &str) -> Tensor {
    catalog(dir).get(name).unwrap_or_else(|| panic!("no {name}")).clone()
}

/// Changes the bytes of a model's tensor in place.
fn edit(dir: &Path, tensor: &Tensor, change: impl FnOnce(&mut [u8])) {
    let file = File::options().read(true).write(true).open(dir.join(SHARD)).unwrap();
    let mut bytes = vec![0; tensor.span.len_bytes() as usize];
    file.read_exact_at(&mut bytes, tensor.span.start).unwrap();
    let before = bytes.clone();
    change(&mut bytes);
    assert_ne!(bytes, before);
    file.write_all_at(&bytes, tensor.span.start).unwrap();
}

fn read(dir: &Path, tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.span.len_bytes() as usize];
    File::open(dir.join(SHARD)).unwrap().read_exact_at(&mut bytes, tensor.span.start).unwrap();
    bytes
}

#[test]
fn models_of_equal_headers_and_other_weights_share_neither_prefixes_nor_sessions() {
    let place = Place::new();
    let mixture = Tiny { experts: Some([4, 2]), layers: 2, ..TINY };
    for (kind, tiny) in [("dense", TINY), ("mixture", mixture)] {
        let one = place.write(kind, &tiny);
        let _ = fs::remove_dir_all(place.kv_dir());
        place.keep(&one);
        let other = |name: &str| place.copy(&one, &format!("{kind}-{name}"));

        let all = other("all");
        for tensor in catalog(&all).tensors() {
            edit(&all, tensor, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
        }
        place.assert_other(&all);

        let norm = other("norm");
        edit(&norm, &tensor(&norm, "model.layers.1.input_layernorm.weight"), |bytes| bytes[17] ^= 1);
        place.assert_other(&norm);

        let last = other("last");
        let tensors = catalog(&last);
        let last_tensor = tensors.tensors().max_by_key(|tensor| tensor.span).unwrap();
        edit(&last, last_tensor, |bytes| *bytes.last_mut().unwrap() ^= 1);
        place.assert_other(&last);

        // Two matrices of the same shape are swapped.
        let swapped = other("swapped");
        let [first, second] = ["q_proj", "o_proj"].map(|name| {
            let name = format!("model.layers.0.self_attn.{name}.weight");
            (tensor(&swapped, &name), read(&swapped, &tensor(&swapped, &name)))
        });
        edit(&swapped, &first.0, |bytes| bytes.copy_from_slice(&second.1));
        edit(&swapped, &second.0, |bytes| bytes.copy_from_slice(&first.1));
        place.assert_other(&swapped);

        if kind == "mixture" {
            let expert = other("expert");
            let down = tensor(&expert, "model.layers.1.block_sparse_moe.switch_mlp.down_proj.weight");
            // One code of the third tensor of four.
            edit(&expert, &down, |bytes| bytes[bytes.len() / 4 * 2 + 100] ^= 0x10);
            place.assert_other(&expert);
        }

        place.assert_shares(&one);
        // In place, and back.
        edit(&one, last_tensor, |bytes| bytes[0] ^= 1);
        place.assert_other(&one);
        edit(&one, last_tensor, |bytes| bytes[0] ^= 1);
        place.assert_shares(&one);
    }
}

#[test]
fn copies_moves_downloads_and_new_times_keep_prefixes_and_sessions() {
    let place = Place::new();
    let model = place.write("here", &TINY);
    place.keep(&model);
    place.assert_shares(&place.copy(&model, "there"));

    let moved = place.0.path().join("moved");
    fs::rename(&model, &moved).unwrap();
    place.assert_shares(&moved);

    // Downloaded again: another file takes the name.
    let again = place.copy(&moved, "again");
    fs::rename(again.join(SHARD), moved.join(SHARD)).unwrap();
    place.assert_shares(&moved);

    let file = File::options().write(true).open(moved.join(SHARD)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(86_400)).unwrap();
    place.assert_shares(&moved);
}

/// A model larger than what is fingerprinted in full; all but the norms are in its embedding.
fn large(place: &Place, name: &str) -> PathBuf {
    place.write(name, &Tiny { vocab: 200_000, format: Format::F32, layers: 1, ..TINY })
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn a_large_model_that_was_written_in_place_is_another_one_even_if_its_samples_agree() {
    let place = Place::new();
    let model = large(&place, "large");
    if fs::metadata(model.join(SHARD)).unwrap().created().is_err() {
        eprintln!("skipped: the file system does not say when a file was made");
        return;
    }
    let copy = place.copy(&model, "copy");
    place.keep(&model);
    place.assert_shares(&model);
    place.assert_shares(&copy);
    // Far from the ends, and between the samples.
    let embedding = tensor(&model, "model.embed_tokens.weight");
    edit(&model, &embedding, |bytes| bytes[20_000] ^= 1);
    place.assert_other(&model);
    place.assert_other(&model);
    place.assert_shares(&copy);
}

#[test]
fn blobs_of_a_hub_are_told_apart_by_their_names_even_if_their_samples_agree() {
    let place = Place::new();
    let model = large(&place, "large");
    // Two revisions in a hub's cache: links to files that are named by their SHA-256.
    let [first, second] = ["1", "2"].map(|revision| {
        let snapshot = place.copy(&model, &format!("snapshots/{revision}"));
        let blobs = place.0.path().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        if revision == "2" {
            let embedding = tensor(&snapshot, "model.embed_tokens.weight");
            edit(&snapshot, &embedding, |bytes| bytes[20_000] ^= 1);
        }
        let blob = blobs.join(revision.repeat(64));
        fs::rename(snapshot.join(SHARD), &blob).unwrap();
        std::os::unix::fs::symlink(&blob, snapshot.join(SHARD)).unwrap();
        snapshot
    });
    place.keep(&first);
    place.assert_shares(&model);
    place.assert_other(&second);
    place.assert_shares(&first);
}

#[test]
fn changed_ends_of_a_tensor_of_a_large_model_are_seen_in_a_copy() {
    let place = Place::new();
    let model = large(&place, "large");
    place.keep(&model);
    for name in ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"] {
        for is_last in [false, true] {
            let copy = place.copy(&model, "copy");
            edit(&copy, &tensor(&copy, name), |bytes| {
                let at = if is_last { bytes.len() - 1 } else { 0 };
                bytes[at] ^= 1;
            });
            place.assert_other(&copy);
        }
    }
    place.assert_shares(&place.copy(&model, "copy"));
}

#[test]
fn a_run_that_keeps_nothing_reads_no_sample() {
    let place = Place::new();
    let model = place.write("here", &TINY);
    let (model, options) = place.model(&model, false);
    // The configuration is part of the identity, so computing the identity would fail without it.
    let dir = model.checkpoint().dir().to_owned();
    fs::remove_file(dir.join("config.json")).unwrap();
    let mut engine = model.load(&options).unwrap();
    engine.forward(&tokens(3)).unwrap();
    let missed = engine.save_as("talk", |_| Ok::<_, ModelError>(()));
    assert!(matches!(missed, Err(ModelError::File { .. })), "{missed:?}");
    assert!(!place.kv_dir().exists());
}
