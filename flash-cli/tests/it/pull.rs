//! `pull`, and model ids in place of directories, against a fake hub.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::hub::{COMMIT, FakeHub, ID, NEEDED, Request, SHARD, fake_hub, names};
use crate::support::tiny::Tiny;
use crate::support::{assert_refused, json, output, stderr, stdout};

fn pull(hub: &FakeHub) -> Output {
    hub.flash_cli(["pull", ID]).output().unwrap()
}

#[track_caller]
fn assert_pulled(tiny: &Tiny, hub: &FakeHub, output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
    assert_eq!(stdout(output), format!("{}\n", hub.snapshot().display()));
    assert_eq!(names(&hub.snapshot()), NEEDED);
    for name in NEEDED {
        assert!(fs::read(hub.snapshot().join(name)).unwrap() == fs::read(tiny.path(name)).unwrap(), "{name}");
    }
    let blobs = names(&hub.folder().join("blobs"));
    assert_eq!(blobs.len(), NEEDED.len(), "nothing is left beside the blobs: {blobs:?}");
}

#[test]
fn pull_downloads_only_files_that_a_model_needs() {
    let (tiny, hub) = fake_hub();
    let pulled = pull(&hub);
    assert_pulled(&tiny, &hub, &pulled);
    assert_eq!(hub.fetched(), NEEDED);
    let note = format!("Downloading {ID} from http://127.0.0.1:");
    assert!(stderr(&pulled).contains(&note), "{}", stderr(&pulled));
    assert_eq!(fs::read_to_string(hub.folder().join("refs").join("main")).unwrap(), COMMIT);
    assert!(fs::symlink_metadata(hub.snapshot().join(SHARD)).unwrap().is_symlink());
}

#[test]
fn a_second_pull_fetches_what_changed() {
    let (tiny, hub) = fake_hub();
    assert_pulled(&tiny, &hub, &pull(&hub));
    hub.requests();
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.fetched(), [""; 0]);
    hub.state().files.get_mut("config.json").unwrap().push(b'\n');
    assert!(pull(&hub).status.success());
    assert_eq!(hub.fetched(), ["config.json"]);
    assert!(fs::read_to_string(hub.snapshot().join("config.json")).unwrap().ends_with('\n'));
}

#[test]
fn blobs_that_another_snapshot_has_are_not_fetched_again() {
    let (tiny, hub) = fake_hub();
    assert_pulled(&tiny, &hub, &pull(&hub));
    hub.requests();
    fs::remove_dir_all(hub.snapshot()).unwrap();
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.fetched(), [""; 0]);
}

#[test]
fn interrupted_connections_resume() {
    let (tiny, hub) = fake_hub();
    hub.state().cuts.extend([1000, 0, 500]);
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.ranges(), ["bytes=0-", "bytes=1000-", "bytes=1000-", "bytes=1500-"]);
}

#[test]
fn a_failed_pull_resumes() {
    let (tiny, hub) = fake_hub();
    hub.state().cuts.extend([1000, 0, 0, 0, 0, 0]);
    let bytes = fs::metadata(tiny.path(SHARD)).unwrap().len().to_string();
    assert_eq!(pull(&hub).status.code(), Some(1));
    hub.requests();
    hub.state().cuts.extend([0; 5]);
    let failed = pull(&hub);
    assert_eq!(failed.status.code(), Some(1));
    let error = stderr(&failed).lines().last().unwrap();
    for part in [SHARD, "interrupted 5 times at 1000 of ", &bytes] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    let offline = hub.flash_cli(["pull", ID]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_refused(&offline, 1, &["not in the cache"]);
    hub.requests();
    hub.state().cuts.clear();
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.ranges(), ["bytes=1000-"]);
}

#[test]
fn a_killed_pull_resumes() {
    let (tiny, hub) = fake_hub();
    hub.state().cuts.push_back(1000);
    hub.state().stalls = true;
    let command = hub.flash_cli(["pull", ID]);
    let mut child = Command::new(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_part = |entry: &DirEntry| {
        entry.path().extension() == Some(OsStr::new("part")) && entry.metadata().unwrap().len() == 1000
    };
    let begin = Instant::now();
    while !fs::read_dir(hub.folder().join("blobs"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| is_part(&entry))
    {
        assert!(begin.elapsed() < Duration::from_secs(60), "no part of the weights has come");
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    hub.requests();
    hub.state().stalls = false;
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.ranges(), ["bytes=1000-"]);
}

#[test]
fn requests_to_a_busy_server_are_retried() {
    let (tiny, hub) = fake_hub();
    hub.state().refusals.extend([503, 429]);
    assert_pulled(&tiny, &hub, &pull(&hub));
    fs::remove_dir_all(hub.folder()).unwrap();
    for wait in ["1", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        hub.state().retry_after = Some(wait.to_owned());
        hub.state().refusals.push_back(503);
        hub.state().listing_refusals.extend([429, 503]);
        assert_pulled(&tiny, &hub, &pull(&hub));
        fs::remove_dir_all(hub.folder()).unwrap();
    }
    hub.state().refusals.push_back(410);
    let refused = pull(&hub);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("the server answered with status 410"), "{}", stderr(&refused));
}

#[test]
fn downloads_from_another_host_resume_and_send_no_token() {
    let (tiny, hub) = fake_hub();
    hub.state().token = Some("secret".to_owned());
    hub.state().redirects = true;
    hub.state().cuts.push_back(1000);
    assert_pulled(&tiny, &hub, &hub.flash_cli(["pull", ID]).env("HF_TOKEN", "secret").output().unwrap());
    let of_weights: Vec<_> = hub.requests().into_iter().filter(Request::is_for_weights).collect();
    let seen: Vec<_> = of_weights.iter().map(|r| (r.range.as_deref(), r.token.as_deref())).collect();
    let (begin, rest) = (Some("bytes=0-"), Some("bytes=1000-"));
    assert_eq!(seen, [(begin, Some("secret")), (begin, None), (rest, Some("secret")), (rest, None)]);
}

#[test]
fn a_complete_part_is_not_requested() {
    let (tiny, hub) = fake_hub();
    assert_pulled(&tiny, &hub, &pull(&hub));
    hub.requests();
    let blob = fs::canonicalize(hub.snapshot().join(SHARD)).unwrap();
    fs::rename(&blob, blob.with_extension("part")).unwrap();
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.fetched(), [""; 0]);
}

#[test]
fn a_part_longer_than_the_file_is_discarded() {
    let (tiny, hub) = fake_hub();
    assert_pulled(&tiny, &hub, &pull(&hub));
    hub.requests();
    let blob = fs::canonicalize(hub.snapshot().join(SHARD)).unwrap();
    let longer = [fs::read(&blob).unwrap(), vec![0]].concat();
    fs::write(blob.with_extension("part"), longer).unwrap();
    fs::remove_file(blob).unwrap();
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.ranges(), ["bytes=0-"]);
}

#[test]
fn a_part_with_other_contents_is_rejected_and_discarded() {
    let (tiny, hub) = fake_hub();
    assert_pulled(&tiny, &hub, &pull(&hub));
    hub.requests();
    let blob = fs::canonicalize(hub.snapshot().join(SHARD)).unwrap();
    fs::write(blob.with_extension("part"), vec![0; 1000]).unwrap();
    fs::remove_file(blob).unwrap();
    let refused = pull(&hub);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("hash mismatch with the listing"), "{}", stderr(&refused));
    assert!(!hub.snapshot().join(SHARD).exists());
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.ranges(), ["bytes=1000-", "bytes=0-"]);
}

#[test]
fn without_range_support_the_whole_file_is_downloaded_again() {
    let (tiny, hub) = fake_hub();
    hub.state().cuts.push_back(1000);
    hub.state().ignores_ranges = true;
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.ranges(), ["bytes=0-", "bytes=1000-"]);
}

#[test]
fn a_file_of_another_size_than_listed_is_refused_with_both() {
    for difference in [-1, 1] {
        let (tiny, hub) = fake_hub();
        let bytes = fs::metadata(tiny.path(SHARD)).unwrap().len();
        let listed = bytes.strict_add_signed(difference);
        hub.state().listed_bytes.insert(SHARD.to_owned(), listed);
        let refused = pull(&hub);
        assert_eq!(refused.status.code(), Some(1));
        let error = stderr(&refused).lines().last().unwrap();
        for part in [SHARD, &format!("wanted {listed} B as listed"), &format!("has {bytes} B")] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        assert!(!hub.snapshot().join(SHARD).exists());
        assert!(!hub.folder().join("refs").exists(), "an incomplete snapshot has no ref");
    }
}

#[test]
fn a_disk_that_is_too_small_is_reported_at_once() {
    let (_tiny, hub) = fake_hub();
    hub.state().listed_bytes.insert(SHARD.to_owned(), 1 << 60);
    let refused = pull(&hub);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("not enough disk space: "), "{}", stderr(&refused));
    assert_eq!(hub.fetched(), [""; 0]);
}

#[test]
fn private_models_ask_for_a_token_and_take_it_from_the_environment() {
    let (tiny, hub) = fake_hub();
    hub.state().token = Some("secret".to_owned());
    assert_refused(&pull(&hub), 1, &[ID, "status 401", "set HF_TOKEN"]);
    let with = |token| hub.flash_cli(["pull", ID]).env("HF_TOKEN", token).output().unwrap();
    let refused = with("wrong");
    assert_refused(&refused, 1, &[ID, "status 401", "or the token has no access to it"]);
    assert!(!stderr(&refused).contains("wrong"), "a token is not shown");
    assert_pulled(&tiny, &hub, &with("secret"));
}

#[test]
fn missing_models_revisions_and_files_are_named() {
    let (_tiny, hub) = fake_hub();
    let pull = |id| hub.flash_cli(["pull", id]).output().unwrap();
    assert_refused(&pull("some-org/none"), 1, &["some-org/none: no such model at http://127.0.0.1"]);
    assert_refused(&pull("some-org/Tiny-1B@v3"), 1, &["some-org/Tiny-1B@v3: ", "no revision \"v3\""]);
    hub.state().files.remove("config.json");
    assert_refused(&pull(ID), 1, &[ID, "has no config.json at its top"]);
}

#[test]
fn a_server_that_fails_is_named() {
    let (_tiny, hub) = fake_hub();
    hub.state().status = Some(503);
    assert_refused(&pull(&hub), 1, &[&format!("/api/models/{ID}: "), "status 503"]);
    hub.state().status = None;
    hub.state().listing = Some("<html>".to_owned());
    assert_refused(&pull(&hub), 1, &[&format!("/api/models/{ID}: invalid file listing: ")]);
    let nobody = hub.flash_cli(["pull", ID]).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    assert_refused(&nobody, 1, &["http://127.0.0.1:1/api/models/", "refused"]);
}

#[test]
fn a_revision_is_part_of_the_id_or_a_flag() {
    let (_tiny, hub) = fake_hub();
    let at = |revision| format!("{ID}@{revision}");
    for args in [&["pull", &at("v2")][..], &["pull", ID, "--revision", "v2"], &["pull", &at(COMMIT)]] {
        let pulled = hub.flash_cli(args.iter().copied()).output().unwrap();
        assert!(pulled.status.success(), "{}", stderr(&pulled));
    }
    assert_eq!(names(&hub.folder().join("refs")), ["v2"], "a commit needs no name");
    let offline =
        |id: &str| hub.flash_cli(["inspect", "--model", id]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(offline(&at("v2")).status.success());
    assert!(offline(&at(COMMIT)).status.success());
    assert_refused(&offline(ID), 1, &[&format!("{ID}: not in the cache")]);
    assert_refused(
        &output(["pull", &at("v2"), "--revision", "v3"]),
        2,
        &["v2 already has a revision", "--revision v3"],
    );
    assert_refused(&output(["pull", "tiny"]), 2, &["\"tiny\" is not a model id"]);
    assert_refused(&output(["pull", "a/b", "--revision", "../c"]), 2, &["\"../c\" is not a valid revision"]);
}

#[test]
fn an_id_is_pulled_once_and_then_runs_without_the_hub() {
    let (tiny, hub) = fake_hub();
    let run = |model: &str| {
        let args = ["run", "--model", model, "--prompt", "5 6", "--max-tokens", "4", "--json"];
        hub.flash_cli(args).output().unwrap()
    };
    let expected = json(&run(tiny.dir()))["token_ids"].clone();
    let first = run(ID);
    assert_eq!(json(&first)["token_ids"], expected);
    assert!(stderr(&first).contains(&format!("Downloading {ID}")), "{}", stderr(&first));
    hub.requests();
    assert_eq!(json(&run(ID))["token_ids"], expected);
    assert!(hub.requests().is_empty(), "cached files are not requested");
}

#[test]
fn every_command_accepts_an_id() {
    // The disk benchmarks need a model of this size.
    let tiny = Tiny::new(128);
    let hub = FakeHub::new(&tiny);
    assert!(pull(&hub).status.success());
    tiny.write("text", "5 6 7 8 9 ".repeat(9).as_bytes());
    let text = tiny.path("text");
    let verbs: [&[&str]; 7] = [
        &["inspect"],
        &["plan"],
        &["perplexity", "--file", text.to_str().unwrap()],
        &["chat"],
        &["bench", "io", "--io", "pread"],
        &["bench", "stream", "--tokens", "1"],
        &["bench", "prefill", "--tokens", "2"],
    ];
    for verb in verbs {
        let args = verb.iter().copied().chain(["--model", ID]);
        let output = hub.flash_cli(args).env("HF_HUB_OFFLINE", "1").write_stdin("").output().unwrap();
        assert!(output.status.success(), "{verb:?}: {}", stderr(&output));
    }
}

#[test]
fn a_modelfile_may_come_from_an_id() {
    let (tiny, hub) = fake_hub();
    tiny.write("Modelfile", format!("FROM {ID}\n").as_bytes());
    let file = tiny.path("Modelfile");
    let mut run = hub.flash_cli(["run", "--prompt", "5", "--max-tokens", "2", "--modelfile"]);
    let output = run.arg(file).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(hub.snapshot().join(SHARD).exists());
}

#[test]
fn a_path_that_exists_wins_over_an_id() {
    let (tiny, hub) = fake_hub();
    fs::create_dir(tiny.path("some-org")).unwrap();
    std::os::unix::fs::symlink(tiny.dir(), tiny.path(ID)).unwrap();
    let inspect = hub.flash_cli(["inspect", "--model", ID]).current_dir(tiny.dir()).output().unwrap();
    assert!(inspect.status.success(), "{}", stderr(&inspect));
    assert!(hub.requests().is_empty());
}

#[test]
fn offline_sends_no_requests() {
    let (tiny, hub) = fake_hub();
    let offline = |args: [&str; 2]| hub.flash_cli(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_refused(&offline(["pull", ID]), 1, &[ID, "not in the cache", "HF_HUB_OFFLINE"]);
    assert!(hub.requests().is_empty());
    assert_pulled(&tiny, &hub, &pull(&hub));
    hub.requests();
    assert_pulled(&tiny, &hub, &offline(["pull", ID]));
    assert!(hub.requests().is_empty());
}

#[test]
fn the_cache_is_where_the_environment_says() {
    let (_tiny, hub) = fake_hub();
    let elsewhere = tempfile::tempdir().unwrap();
    let pulled = hub.flash_cli(["pull", ID]).env("HF_HUB_CACHE", elsewhere.path()).output().unwrap();
    assert!(pulled.status.success(), "{}", stderr(&pulled));
    assert!(stdout(&pulled).starts_with(elsewhere.path().to_str().unwrap()));
    assert!(!hub.folder().exists());
}

#[test]
fn a_server_that_asks_for_an_hour_is_not_waited_for() {
    let (_tiny, hub) = fake_hub();
    hub.state().retry_after = Some("3600".to_owned());
    hub.state().listing_refusals.push_back(429);
    let parts = [&format!("/api/models/{ID}: "), "status 429", "asks to wait 3600 s"];
    assert_refused(&pull(&hub), 1, &parts);
    hub.state().refusals.push_back(503);
    let refused = pull(&hub);
    assert_eq!(refused.status.code(), Some(1));
    for part in [SHARD, "status 503", "asks to wait 3600 s"] {
        assert!(stderr(&refused).contains(part), "{part:?} is not in {}", stderr(&refused));
    }
}

#[test]
fn small_files_are_checked_by_the_hash_of_git() {
    let (tiny, hub) = fake_hub();
    let mut other = hub.state().files["config.json"].clone();
    *other.last_mut().unwrap() = b' ';
    hub.state().sent.insert("config.json".to_owned(), other.clone());
    let refused = pull(&hub);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("config.json: hash mismatch"), "{}", stderr(&refused));
    assert!(!hub.snapshot().join("config.json").exists());
    hub.state().sent.clear();
    assert_pulled(&tiny, &hub, &pull(&hub));
    // Wrong contents in the cache are replaced.
    hub.requests();
    fs::write(fs::canonicalize(hub.snapshot().join("config.json")).unwrap(), other).unwrap();
    assert_pulled(&tiny, &hub, &pull(&hub));
    assert_eq!(hub.fetched(), ["config.json"]);
}

#[test]
fn a_server_that_gives_lfs_pointers_is_named() {
    let (_tiny, hub) = fake_hub();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123456\n", "0".repeat(64));
    hub.state().has_no_lfs = true;
    hub.state().files.insert(SHARD.to_owned(), pointer.into_bytes());
    let refused = pull(&hub);
    assert_eq!(refused.status.code(), Some(1));
    let expected = format!("{SHARD}: the server sent a Git LFS pointer instead of the file");
    assert!(stderr(&refused).contains(&expected), "{}", stderr(&refused));
    assert!(!hub.snapshot().join(SHARD).exists());
}

#[test]
fn the_home_folder_in_paths_of_the_environment_is_expanded() {
    let (_tiny, hub) = fake_hub();
    let home = tempfile::tempdir().unwrap();
    let pull = || {
        let mut command = hub.flash_cli(["pull", ID]);
        command.env("HOME", home.path());
        command
    };
    let pulled = pull().env("HF_HOME", "~/hf").output().unwrap();
    let expected = format!("{}/hf/hub/models--some-org--Tiny-1B/", home.path().display());
    assert!(stdout(&pulled).starts_with(&expected), "{} {}", stdout(&pulled), stderr(&pulled));
    let pulled = pull().env("HF_HUB_CACHE", "$HOME/hub").output().unwrap();
    assert!(
        stdout(&pulled).starts_with(&format!("{}/hub/models--", home.path().display())),
        "{}",
        stdout(&pulled)
    );
    assert_refused(&pull().env("HF_HOME", "~bob/hf").output().unwrap(), 1, &["HF_HOME is \"~bob/hf\""]);
}
