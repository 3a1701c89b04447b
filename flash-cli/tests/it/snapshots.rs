//! Snapshots in the cache that another tool has downloaded, completely or in part.

use std::fs;

use serde_json::{Map, Value, json};

use crate::support::hub::{COMMIT, FakeHub, ID, NEEDED, SHARD, fake_hub, names};
use crate::support::{assert_refused, json as report, stderr};

/// Sets up the cache as if another tool had downloaded all files but `missing`.
fn pull_in_part(hub: &FakeHub, missing: &[&str]) {
    assert!(hub.flash_cli(["pull", ID]).output().unwrap().status.success());
    fs::remove_dir_all(hub.folder().join(".flash")).unwrap();
    for name in missing {
        let link = hub.snapshot().join(name);
        fs::remove_file(fs::canonicalize(&link).unwrap()).unwrap();
        fs::remove_file(link).unwrap();
    }
    hub.requests();
}

#[test]
fn a_snapshot_that_another_tool_filled_in_part_is_completed() {
    let prompt = ["--prompt", "5 6", "--max-tokens", "4", "--json"];
    for missing in
        [&["tokenizer.json"][..], &[SHARD], &["chat_template.jinja"], &["config.json", "tokenizer.json"]]
    {
        let (tiny, hub) = fake_hub();
        let run =
            |model: &str| hub.flash_cli([&["run", "--model", model], &prompt[..]].concat()).output().unwrap();
        pull_in_part(&hub, missing);
        assert_eq!(report(&run(ID))["token_ids"], report(&run(tiny.dir()))["token_ids"]);
        assert_eq!(hub.fetched(), missing);
        assert_eq!(names(&hub.snapshot()), NEEDED);
        hub.requests();
        assert!(run(ID).status.success());
        assert!(hub.requests().is_empty(), "it is known to be whole now");
    }
}

#[test]
fn offline_an_incomplete_snapshot_is_refused_with_what_it_lacks() {
    let (_tiny, hub) = fake_hub();
    let run = |variable: &str| {
        let args = ["run", "--model", ID, "--prompt", "5 6", "--max-tokens", "4"];
        hub.flash_cli(args).env(variable, "1").output().unwrap()
    };
    pull_in_part(&hub, &["tokenizer.json", SHARD]);
    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        assert_refused(
            &run(variable),
            1,
            &[ID, COMMIT, " lacks tokenizer.json, *.safetensors, and ", variable],
        );
    }
    assert!(hub.requests().is_empty());
    let args = ["run", "--model", ID, "--prompt", "5 6"];
    let nobody = hub.flash_cli(args).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    assert_refused(
        &nobody,
        1,
        &[" lacks tokenizer.json, *.safetensors, and the download failed: http://127.0.0.1:1"],
    );
    // With a listing, every missing file is known.
    assert!(hub.flash_cli(["pull", ID]).output().unwrap().status.success());
    fs::remove_file(hub.snapshot().join("chat_template.jinja")).unwrap();
    assert_refused(&run("HF_HUB_OFFLINE"), 1, &[" lacks chat_template.jinja, and HF_HUB_OFFLINE is set"]);
}

#[test]
fn a_snapshot_that_cannot_be_compared_runs_with_a_note_if_nothing_is_known_to_be_missing() {
    let (_tiny, hub) = fake_hub();
    pull_in_part(&hub, &[]);
    let run = || hub.flash_cli(["run", "--model", ID, "--prompt", "5 6", "--max-tokens", "4"]);
    let offline = run().env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(offline.status.success());
    assert!(stderr(&offline).contains("was downloaded by another tool"), "{}", stderr(&offline));
    let nobody = run().env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    assert!(nobody.status.success());
    assert!(stderr(&nobody).contains("not compared with the hub"), "{}", stderr(&nobody));
    let compared = run().output().unwrap();
    assert_eq!((compared.status.code(), stderr(&compared)), (Some(0), ""));
}

/// Since version 2, `huggingface_hub` also keeps a listing.
#[test]
fn a_listing_of_huggingface_hub_is_as_good_as_ours() {
    let (tiny, hub) = fake_hub();
    let run = || {
        let args = ["run", "--model", ID, "--prompt", "5 6", "--max-tokens", "4"];
        hub.flash_cli(args).env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    pull_in_part(&hub, &[]);
    let file = |name: &str| {
        let blob = fs::canonicalize(hub.snapshot().join(name)).unwrap();
        let bytes = fs::metadata(tiny.path(name)).unwrap().len();
        (name.to_owned(), json!({ "size": bytes, "blob_id": blob.file_name().unwrap().to_str() }))
    };
    let files: Map<String, Value> = NEEDED.map(file).into_iter().collect();
    let trees = hub.folder().join("trees");
    fs::create_dir(&trees).unwrap();
    let tree = json!({ "format_version": 1, "files": files }).to_string();
    fs::write(trees.join(format!("{COMMIT}.json")), tree).unwrap();
    let whole = run();
    assert_eq!((whole.status.code(), stderr(&whole)), (Some(0), ""));
    fs::remove_file(hub.snapshot().join("chat_template.jinja")).unwrap();
    assert_refused(&run(), 1, &[" lacks chat_template.jinja, and HF_HUB_OFFLINE is set"]);
    assert!(hub.requests().is_empty());
}
