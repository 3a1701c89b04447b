//! Page files that live as long as their process.

use std::fs;

use flash_kv::Scratch;

use crate::support::identity;

#[test]
fn directory_is_removed_on_drop() {
    let kv_dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(kv_dir.path(), &identity()).unwrap();
    let dir = scratch.dir().to_owned();
    assert!(dir.join("pages.kv").exists() && dir.starts_with(kv_dir.path()));
    drop(scratch);
    assert!(!dir.exists());
}

#[test]
fn directories_of_ended_runs_are_removed_and_running_ones_are_kept() {
    let kv_dir = tempfile::tempdir().unwrap();
    let living = Scratch::new(kv_dir.path(), &identity()).unwrap();
    for (name, pages) in [("run-1-a", true), ("run-2-b", false)] {
        fs::create_dir(kv_dir.path().join(name)).unwrap();
        if pages {
            fs::write(kv_dir.path().join(name).join("pages.kv"), "what is left").unwrap();
        }
    }
    fs::create_dir(kv_dir.path().join("sessions")).unwrap();
    let another = Scratch::new(kv_dir.path(), &identity()).unwrap();
    assert_ne!(living.dir(), another.dir());
    assert!(living.pages().path().exists());
    let mut names: Vec<_> = fs::read_dir(kv_dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut wanted = vec![kv_dir.path().join("lock"), kv_dir.path().join("sessions")];
    wanted.extend([living.dir().to_owned(), another.dir().to_owned()]);
    wanted.sort();
    assert_eq!(names, wanted);
}
