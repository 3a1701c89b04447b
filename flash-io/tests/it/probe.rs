//! Tests of the probe and its cache.

use std::fs::{self, File};

use flash_io::{Catalog, IoMode, ReaderConfig, Tuning};

use crate::support::{disk_dir, modes_in, u8_file, write};

/// Creates a sparse shard that is long enough to be probed.
fn big_model() -> tempfile::TempDir {
    let dir = disk_dir();
    File::create(dir.path().join("model.safetensors")).unwrap().set_len(80 << 20).unwrap();
    dir
}

#[test]
fn probe_finds_something_that_works_and_keeps_it() {
    let dir = big_model();
    let modes = modes_in(dir.path());
    let cache = dir.path().join("cache").join("disks.json");
    let found = Tuning::find(dir.path(), IoMode::Auto, Some(&cache));
    assert!(modes.contains(&found.mode) && found.depth > 0 && found.chunk_bytes > 0);
    if !modes.contains(&IoMode::Direct) {
        return;
    }
    let kept = fs::read_to_string(&cache).unwrap();
    assert_eq!(Tuning::find(dir.path(), IoMode::Auto, Some(&cache)), found);
    assert_eq!(fs::read_to_string(&cache).unwrap(), kept);
    // The file is used instead of another probe.
    let other = kept.replace(&format!("\"depth\": {}", found.depth), "\"depth\": 77");
    fs::write(&cache, other).unwrap();
    assert_eq!(Tuning::find(dir.path(), IoMode::Auto, Some(&cache)).depth, 77);
}

#[test]
fn requested_mode_is_kept() {
    let dir = big_model();
    for mode in modes_in(dir.path()) {
        assert_eq!(Tuning::find(dir.path(), mode, None).mode, mode);
    }
}

#[test]
fn broken_cache_is_no_error() {
    let dir = big_model();
    let cache = write(dir.path(), "disks.json", "{ \"version\": ");
    assert!(Tuning::find(dir.path(), IoMode::Auto, Some(&cache)).depth > 0);
    assert!(Tuning::find(dir.path(), IoMode::Auto, Some(dir.path())).depth > 0);
}

#[test]
fn small_model_is_not_probed() {
    let dir = disk_dir();
    write(dir.path(), "model.safetensors", u8_file(&[("a", vec![1; 100])]));
    let cache = dir.path().join("disks.json");
    let Tuning { mode, depth, chunk_bytes } = Tuning::find(dir.path(), IoMode::Auto, Some(&cache));
    let default = ReaderConfig::default();
    assert_eq!((depth, chunk_bytes), (default.depth, default.chunk_bytes));
    assert!(Catalog::open(dir.path(), mode).is_ok());
    assert!(!cache.exists());
}

#[test]
fn missing_model_is_left_to_be_reported_by_opening_it() {
    let dir = disk_dir();
    for mode in [IoMode::Auto, IoMode::Direct] {
        assert_eq!(Tuning::find(dir.path(), mode, None).mode, mode);
        assert_eq!(Tuning::find(&dir.path().join("none"), mode, None).mode, mode);
    }
}

#[test]
fn auto_reads_whatever_the_file_system_can() {
    let status = flash_io::open(std::path::Path::new("/proc/self/status"), IoMode::Auto);
    #[cfg(target_os = "linux")]
    assert_eq!(status.unwrap().alignment(), 1);
    #[cfg(not(target_os = "linux"))]
    drop(status);
}
