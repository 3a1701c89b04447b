//! Tests of model directories, with one test for each rejection.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flash_io::{Catalog, IoError, IoMode, MAX_INDEX_BYTES, ShardIdx};
use tempfile::TempDir;

use crate::support::{disk_dir, expected, file_of, modes_in, shared, u8_file, write};

const INDEX: &str = "model.safetensors.index.json";

fn dir_of(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = disk_dir();
    for (name, bytes) in files {
        write(dir.path(), name, bytes);
    }
    dir
}

fn open(dir: &TempDir) -> Result<Catalog, IoError> {
    Catalog::open(dir.path(), IoMode::Pread)
}

fn names(catalog: &Catalog) -> Vec<&str> {
    catalog.tensors().map(|tensor| tensor.name.as_str()).collect()
}

fn one(name: &str, bytes: &[u8]) -> Vec<u8> {
    u8_file(&[(name, bytes.to_vec())])
}

/// Opens an indexed model of two shards, `1.safetensors` with `a` and `2.safetensors` with `b`.
fn indexed(index: &str) -> Result<Catalog, IoError> {
    open(&dir_of(&[
        ("1.safetensors", one("a", &[1, 2])),
        ("2.safetensors", one("b", &[3])),
        (INDEX, index.as_bytes().to_vec()),
    ]))
}

#[test]
fn single_file_is_read_in_every_mode() {
    let dir = dir_of(&[("model.safetensors", u8_file(&[("b", vec![1, 2, 3]), ("a", vec![4])]))]);
    for mode in modes_in(dir.path()) {
        let catalog = Catalog::open(dir.path(), mode).unwrap();
        assert_eq!(names(&catalog), ["a", "b"]);
        assert_eq!(catalog.total_bytes(), 4);
        assert_eq!(catalog.get("b").unwrap().shard, ShardIdx(0));
        assert_eq!(expected(&catalog, "b"), [1, 2, 3]);
        assert!(catalog.get("c").is_none());
    }
}

#[test]
fn single_file_wins_over_other_files() {
    let dir = dir_of(&[
        ("model.safetensors", one("a", &[1])),
        ("adapter.safetensors", one("b", &[1])),
        (INDEX, b"not json".to_vec()),
    ]);
    assert_eq!(names(&open(&dir).unwrap()), ["a"]);
}

#[test]
fn index_gives_the_tensors_it_names_and_no_others() {
    let dir = dir_of(&[
        ("1.safetensors", u8_file(&[("a", vec![1, 2]), ("unnamed", vec![9])])),
        ("2.safetensors", u8_file(&[("b", vec![3]), ("a", vec![8, 8, 8])])),
        ("unnamed.safetensors", b"not even safetensors".to_vec()),
        (
            INDEX,
            br#"{"metadata":{"total_size":3},"weight_map":{"b":"2.safetensors","a":"1.safetensors"}}"#
                .to_vec(),
        ),
    ]);
    let catalog = open(&dir).unwrap();
    assert_eq!(names(&catalog), ["a", "b"]);
    assert_eq!(catalog.shards().len(), 2);
    assert_eq!((expected(&catalog, "a"), expected(&catalog, "b")), (vec![1, 2], vec![3]));
}

#[test]
fn shards_without_an_index_are_taken_by_name() {
    let with_metadata =
        |format: &str| file_of(&format!(r#"{{"__metadata__":{{"format":"{format}"}}}}"#), &[]);
    let dir = dir_of(&[
        ("model-2.safetensors", one("b", &[3])),
        ("model-1.safetensors", one("a", &[1])),
        ("model-3.safetensors", with_metadata("mlx")),
        ("model-4.safetensors", with_metadata("pt")),
        ("notes.txt", vec![]),
    ]);
    let catalog = open(&dir).unwrap();
    assert_eq!(names(&catalog), ["a", "b"]);
    assert_eq!(catalog.shards()[0].path, dir.path().join("model-1.safetensors"));
    assert_eq!(catalog.metadata()["format"], "mlx");
}

#[test]
fn hidden_files_are_no_shards_unless_an_index_names_them() {
    let apple_double = || (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ").to_vec();
    let shard = || ("1.safetensors", one("a", &[1]));
    let hidden = [("._1.safetensors", apple_double()), (".incomplete.safetensors", vec![])];
    let dir = dir_of(&[&[shard()], &hidden[..]].concat());
    let catalog = open(&dir).unwrap();
    assert_eq!((names(&catalog), catalog.shards().len()), (vec!["a"], 1));
    assert!(matches!(open(&dir_of(&hidden)), Err(IoError::NoShards { .. })));

    let index = br#"{"weight_map":{"a":".hidden.safetensors"}}"#.to_vec();
    let dir = dir_of(&[(".hidden.safetensors", one("a", &[2])), shard(), (INDEX, index)]);
    assert_eq!(expected(&open(&dir).unwrap(), "a"), [2]);
}

#[test]
fn shards_of_the_model_are_distinguished_from_other_files() {
    let part = |name, tensor| (name, one(tensor, &[1]));
    let dir = dir_of(&[
        part("adapters.safetensors", "b"),
        part("consolidated.safetensors", "a"),
        part("model-00001-of-00002.safetensors", "a"),
        part("model-00002-of-00002.safetensors", "c"),
    ]);
    assert_eq!(names(&open(&dir).unwrap()), ["a", "c"]);
    let dir = dir_of(&[part("weights.1.safetensors", "a"), part("weights.2.safetensors", "c")]);
    assert_eq!(names(&open(&dir).unwrap()), ["a", "c"]);
}

#[test]
fn opening_does_not_read_the_weights() {
    const BYTES: u64 = 4 << 30;
    let dir = disk_dir();
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{BYTES}],"data_offsets":[0,{BYTES}]}}}}"#);
    let bytes = file_of(&header, &[]);
    let path = write(dir.path(), "model.safetensors", &bytes);
    // The weights are a hole, of which the file system stores nothing.
    File::options().write(true).open(path).unwrap().set_len(bytes.len() as u64 + BYTES).unwrap();
    for mode in modes_in(dir.path()) {
        let started = Instant::now();
        assert_eq!(Catalog::open(dir.path(), mode).unwrap().total_bytes(), BYTES);
        assert!(started.elapsed() < Duration::from_millis(500), "{mode}: {:?}", started.elapsed());
    }
}

#[test]
fn missing_directory_is_an_error_that_names_it() {
    let error = Catalog::open(Path::new("/no/such/model"), IoMode::Pread).unwrap_err();
    assert!(matches!(&error, IoError::Open { path, .. } if path == Path::new("/no/such/model")), "{error}");
}

#[test]
fn file_in_place_of_the_directory_is_refused() {
    let dir = dir_of(&[("x", vec![])]);
    let error = Catalog::open(&dir.path().join("x"), IoMode::Pread).unwrap_err();
    assert!(matches!(error, IoError::NotADirectory { .. }), "{error}");
}

#[test]
fn directory_without_shards_is_refused() {
    let dir = dir_of(&[("config.json", vec![])]);
    assert!(matches!(open(&dir), Err(IoError::NoShards { path }) if path == dir.path()));
    assert!(matches!(indexed(r#"{"weight_map":{}}"#), Err(IoError::NoShards { .. })));
}

#[test]
fn bad_header_names_its_shard() {
    let dir = dir_of(&[("1.safetensors", one("a", &[1])), ("2.safetensors", vec![0; 4])]);
    let error = open(&dir).unwrap_err();
    assert!(matches!(&error, IoError::Header { path, .. } if path.ends_with("2.safetensors")), "{error}");
}

#[test]
fn lfs_pointer_in_place_of_a_shard_or_the_index_is_reported() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n".to_vec();
    let shard_of_index = br#"{"weight_map":{"a":"1.safetensors"}}"#.to_vec();
    for (at, files) in [
        ("model.safetensors", vec![]),
        ("1.safetensors", vec![]),
        ("1.safetensors", vec![(INDEX, shard_of_index)]),
        (INDEX, vec![("1.safetensors", one("a", &[1]))]),
    ] {
        let dir = dir_of(&files);
        write(dir.path(), at, &pointer);
        for mode in modes_in(dir.path()) {
            let error = Catalog::open(dir.path(), mode).unwrap_err();
            assert!(
                matches!(&error, IoError::LfsPointer { path, pointer } if path.ends_with(at) && pointer.size_bytes == Some(123456)),
                "{mode}: {error}"
            );
            assert!(error.to_string().contains("is a Git LFS pointer"), "{error}");
        }
    }
}

#[test]
fn directory_in_place_of_a_shard_is_refused_in_every_mode() {
    let dir = disk_dir();
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    for mode in modes_in(dir.path()) {
        let error = Catalog::open(dir.path(), mode).unwrap_err();
        assert!(
            matches!(&error, IoError::Open { path, .. } if path.ends_with("model.safetensors")),
            "{mode}: {error}"
        );
    }
}

#[test]
fn pipe_in_place_of_a_shard_is_refused_without_blocking() {
    let dir = disk_dir();
    let pipe = dir.path().join("model.safetensors");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for mode in IoMode::ALL {
        let error = Catalog::open(dir.path(), *mode).unwrap_err();
        assert!(error.to_string().contains("model.safetensors: not a regular file"), "{mode}: {error}");
    }
}

#[test]
fn tensor_in_two_shards_is_refused() {
    let dir = dir_of(&[("1.safetensors", one("a", &[1])), ("2.safetensors", one("a", &[1]))]);
    let error = open(&dir).unwrap_err();
    let IoError::DuplicateTensor { path, other, tensor } = &error else { panic!("{error}") };
    assert!(path.ends_with("2.safetensors") && other.ends_with("1.safetensors") && tensor == "a");
}

#[test]
fn index_that_is_not_json_is_refused() {
    for index in ["", "{", "[]", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#] {
        let error = indexed(index).unwrap_err();
        assert!(
            matches!(&error, IoError::IndexSyntax { path, .. } if path.ends_with(INDEX)),
            "{index}: {error}"
        );
    }
}

#[test]
fn index_without_a_weight_map_is_refused() {
    assert!(matches!(indexed(r#"{"metadata":{}}"#), Err(IoError::IndexWithoutWeightMap { .. })));
}

#[test]
fn index_that_names_a_tensor_twice_is_refused() {
    let index = r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors","a":"2.safetensors"}}"#;
    assert!(matches!(indexed(index), Err(IoError::IndexDuplicate { tensor, .. }) if tensor == "a"));
}

#[test]
fn index_that_leaves_the_directory_is_refused() {
    for name in [
        "../1.safetensors",
        "/etc/passwd",
        "x/../1.safetensors",
        "./1.safetensors",
        "x/1.safetensors",
        "..",
        "",
    ] {
        let error = indexed(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#)).unwrap_err();
        assert!(
            matches!(&error, IoError::IndexShardName { tensor, shard, .. } if tensor == "a" && shard == name),
            "{error}"
        );
    }
}

#[test]
fn file_metadata_is_that_of_the_open_file_and_not_of_its_name() {
    use std::os::unix::fs::MetadataExt;

    let dir = dir_of(&[("model.safetensors", one("a", &[1]))]);
    let path = dir.path().join("model.safetensors");
    let inode = fs::metadata(&path).unwrap().ino();
    let catalogs = modes_in(dir.path()).into_iter().map(|mode| Catalog::open(dir.path(), mode).unwrap());
    let catalogs: Vec<_> = catalogs.collect();
    fs::rename(write(dir.path(), "new", one("a", &[2])), &path).unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    for catalog in &catalogs {
        let metadata = catalog.shards()[0].storage.file_metadata().unwrap().unwrap();
        assert_eq!(metadata.ino(), inode, "{catalog:?}");
    }
    let in_memory = open(&dir).unwrap().map_storage(|_, _| shared(vec![1, 2, 3]));
    assert!(in_memory.shards()[0].storage.file_metadata().unwrap().is_none());
}

#[test]
fn index_that_names_a_missing_shard_is_refused() {
    let error = indexed(r#"{"weight_map":{"a":"1.safetensors","b":"3.safetensors"}}"#).unwrap_err();
    assert!(
        matches!(&error, IoError::MissingShard { shard, .. } if shard.ends_with("3.safetensors")),
        "{error}"
    );
}

#[test]
fn index_that_names_a_missing_tensor_is_refused() {
    let error = indexed(r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}}"#)
        .unwrap_err();
    let IoError::MissingTensor { shard, tensor, .. } = &error else { panic!("{error}") };
    assert!(shard.ends_with("2.safetensors") && tensor == "c");
}

#[test]
fn index_above_the_limit_is_refused_unread() {
    let dir = dir_of(&[("1.safetensors", one("a", &[1])), (INDEX, vec![])]);
    let index = File::options().write(true).open(dir.path().join(INDEX)).unwrap();
    index.set_len(MAX_INDEX_BYTES + 1).unwrap();
    assert!(matches!(open(&dir), Err(IoError::IndexTooLong { .. })));
}
