//! Sessions, shared prefixes, and the command `kv`.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, flash_cli, json, output, stderr, stdout};

/// Number of killed runs; `FLASH_KILLS` overrides it.
const KILLS: usize = 20;

/// The fractional parts of its multiples are spread evenly over 0 to 1.
const GOLDEN_RATIO: f64 = 1.618_033_988_749_895;

/// Returns the KV cache directory of a model.
fn kv_dir(tiny: &Tiny) -> String {
    tiny.path("kv").to_str().unwrap().to_owned()
}

fn run_output(tiny: &Tiny, args: &[&str]) -> Output {
    let kv_dir = kv_dir(tiny);
    let common = ["run", "--model", tiny.dir(), "--kv-dir", &kv_dir, "--json"];
    output([&common[..], args].concat())
}

#[track_caller]
fn run(tiny: &Tiny, args: &[&str]) -> Value {
    json(&run_output(tiny, args))
}

#[track_caller]
fn kv(tiny: &Tiny, args: &[&str]) -> Value {
    let kv_dir = kv_dir(tiny);
    json(&output([&["kv"], args, &["--kv-dir", &kv_dir, "--json"]].concat()))
}

/// Runs `chat` with these input lines, and returns its answers and its standard error.
#[track_caller]
fn chat(tiny: &Tiny, args: &[&str], lines: &str) -> (Vec<String>, String) {
    let kv_dir = kv_dir(tiny);
    let common = ["chat", "--model", tiny.dir(), "--max-tokens", "5", "--kv-dir", &kv_dir];
    let output = flash_cli([&common[..], args].concat()).write_stdin(lines).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    (stdout(&output).lines().map(str::to_owned).collect(), stderr(&output).to_owned())
}

/// Returns a text of `n` words.
fn words(n: usize) -> String {
    (0..n).map(|i| (4 + (i * i + 3 * i) % 60).to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_session_resumes_a_text() {
    for kv_quant in ["0", "8"] {
        let tiny = Tiny::new(2);
        let first = words(300);
        let args = ["--ignore-eos", "--max-tokens", "9", "--kv-quant", kv_quant];
        let whole = |prompt: &str| run(&tiny, &[&args[..], &["--prompt", prompt]].concat());
        let part = |prompt: &str| run(&tiny, &[&args[..], &["--session", "a", "--prompt", prompt]].concat());
        let begun = part(&first);
        assert_eq!(begun["token_ids"], whole(&first)["token_ids"]);
        let gone_on = part("7 8 9");
        let so_far = format!("{first} {} 7 8 9", begun["text"].as_str().unwrap());
        assert_eq!(gone_on["token_ids"], whole(&so_far)["token_ids"], "--kv-quant {kv_quant}");
        assert_eq!(
            (gone_on["prompt_tokens"].as_u64(), gone_on["reused_tokens"].as_u64()),
            (Some(312), Some(308))
        );
        let shown = kv(&tiny, &["show", "a"]);
        assert_eq!((shown["kind"].as_str(), shown["tokens"].as_u64()), (Some("text"), Some(320)));
    }
}

#[test]
fn a_session_resumes_a_conversation_in_chat_and_in_run() {
    let tiny = Tiny::new(2);
    let (all, _) = chat(&tiny, &["--system", "9"], "5 6\n7\n8\n");
    let (first, _) = chat(&tiny, &["--session", "talk", "--system", "9"], "5 6\n");
    let (second, said) = chat(&tiny, &["--session", "talk"], "7\n/stats\n");
    assert!(said.contains("context "), "{said}");
    let asked = run(&tiny, &["--session", "talk", "--chat", "--max-tokens", "5", "--prompt", "8"]);
    let got = [&first[..], &second[..], &[asked["text"].as_str().unwrap().to_owned()]].concat();
    assert_eq!(got, all);
    assert!(asked["reused_tokens"].as_u64() > Some(0));
    assert_eq!(kv(&tiny, &["show", "talk"])["messages"], 7);
    let text = run_output(&tiny, &["--session", "talk", "--prompt", "8"]);
    assert_refused(&text, 1, &["session talk is a conversation", "--chat"]);
}

#[test]
fn save_and_load_keep_a_conversation_whatever_its_cache() {
    for args in [&[][..], &["--kv-quant", "8"], &["--compute", "mlx"]] {
        let tiny = Tiny::new(2);
        let question = words(200);
        let (all, _) = chat(&tiny, args, &format!("{question}\n7\n8\n"));
        let (first, said) = chat(&tiny, args, &format!("{question}\n/save talk\n/reset\n1\n"));
        assert!(said.contains("session talk: 2 messages"), "{said}");
        let (rest, said) = chat(&tiny, args, "3\n/load talk\n/stats\n7\n/save talk\n/load other\n");
        assert!(said.contains("session talk: 2 messages") && said.contains("context 206 of"), "{said}");
        assert!(said.contains("other: there is no such session"), "{said}");
        let (last, _) = chat(&tiny, args, "/load talk\n8\n");
        assert_eq!([&first[..1], &rest[1..], &last[..]].concat(), all, "{args:?}");
    }
}

#[test]
fn prompts_share_what_they_begin_with() {
    for kv_quant in ["0", "4"] {
        let tiny = Tiny::new(2);
        let long = words(400);
        let prompts = [format!("{long} 5"), format!("{long} 6 7"), words(300), "9 9".to_owned()];
        let reused = [0, 384, 256, 0];
        for (prompt, reused) in prompts.iter().zip(reused) {
            let args = [
                "--kv-quant",
                kv_quant,
                "--max-tokens",
                "6",
                "--repetition-penalty",
                "1.2",
                "--prompt",
                prompt,
            ];
            let alone = run(&tiny, &args);
            let shared = run(&tiny, &[&args[..], &["--prefix-cache"]].concat());
            assert_eq!(shared["token_ids"], alone["token_ids"]);
            assert_eq!(shared["reused_tokens"], reused, "--kv-quant {kv_quant}");
        }
        let listed = kv(&tiny, &["list"]);
        assert_eq!(listed["prefixes"][0]["pages"], 3);
        assert_eq!(kv(&tiny, &["gc"])["pages"], 0);
        assert_eq!(kv(&tiny, &["gc", "--max-bytes", "1B"])["pages"], 3);
    }
}

#[test]
fn kv_lists_shows_and_removes() {
    let tiny = Tiny::new(1);
    let kv_dir = kv_dir(&tiny);
    let empty = output(["kv", "list", "--kv-dir", &kv_dir]);
    assert_eq!((empty.status.code(), stdout(&empty)), (Some(0), "Sessions\n\nPrefixes\n"));
    run(&tiny, &["--session", "one", "--prompt", "5", "--max-tokens", "2"]);
    let listed = output(["kv", "list", "--kv-dir", &kv_dir]);
    assert!(stdout(&listed).contains("one") && stdout(&listed).contains("just now"), "{}", stdout(&listed));
    let shown = output(["kv", "show", "one", "--kv-dir", &kv_dir]);
    assert!(stdout(&shown).contains("tokens     2"), "{}", stdout(&shown));
    assert_eq!(kv(&tiny, &["rm", "one"])["name"], "one");
    for verb in ["show", "rm"] {
        assert_refused(
            &output(["kv", verb, "one", "--kv-dir", &kv_dir]),
            1,
            &["one: there is no such session"],
        );
    }
    assert_refused(&output(["kv", "rm", "../one", "--kv-dir", &kv_dir]), 2, &["session name \"../one\""]);
}

#[test]
fn an_empty_flash_cache_is_not_the_current_folder() {
    let tiny = Tiny::new(1);
    let (here, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut run =
        flash_cli(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "2", "--session", "a"]);
    run.current_dir(here.path()).env("FLASH_CACHE", "").env("XDG_CACHE_HOME", home.path());
    assert!(run.output().unwrap().status.success());
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
    assert!(home.path().join("flash/kv/sessions/a").is_dir());
}

#[test]
fn sessions_of_another_kind_are_refused_with_the_reason() {
    let tiny = Tiny::new(2);
    let with = |args: &[&str]| {
        run_output(&tiny, &[&["--session", "a", "--prompt", "5", "--max-tokens", "2"], args].concat())
    };
    assert!(with(&[]).status.success());
    assert_refused(&with(&["--kv-quant", "8"]), 1, &["pages.kv: holds pages in f32, not in int8"]);
    // Pages as computed do not depend on the window; quantized pages do.
    assert!(with(&["--kv-window", "256"]).status.success());
    let eight = |window: &str| {
        let args = ["--session", "b", "--prompt", "5", "--max-tokens", "2", "--kv-quant", "8"];
        run_output(&tiny, &[&args[..], &["--kv-window", window]].concat())
    };
    assert!(eight("128").status.success());
    assert_refused(&eight("256"), 1, &["a window of 128 tokens, not 256"]);
    assert_refused(&with(&["--compute", "mlx"]), 1, &["belongs to another model"]);
    assert_refused(&with(&["--chat"]), 1, &["session a is a text, not a conversation"]);
    assert_refused(&with(&["--max-kv-size", "2000"]), 2, &["--session", "--max-kv-size"]);
    assert_refused(&with(&["--warm-up"]), 2, &["--session", "--warm-up"]);
    let named = run_output(&tiny, &["--session", ".hidden", "--prompt", "5"]);
    assert_refused(&named, 2, &["session name \".hidden\""]);
    let other = Tiny::new(3);
    let dir = kv_dir(&tiny);
    let refused =
        output(["run", "--model", other.dir(), "--kv-dir", &dir, "--session", "a", "--prompt", "5"]);
    assert_refused(&refused, 1, &["belongs to another model", "flash-cli kv rm"]);
    // Format version 3, which identified models by their headers.
    let pages = tiny.path("kv/sessions/a/pages.kv");
    let mut bytes = fs::read(&pages).unwrap();
    bytes[8] = 3;
    fs::write(&pages, bytes).unwrap();
    assert_refused(&with(&[]), 1, &["has format version 3, this program reads 4", "flash-cli kv rm"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_a_text_with_the_reason_and_keeps_what_was_generated() {
    let tiny = Tiny::new(2);
    let kv_dir = kv_dir(&tiny);
    // Limits files to a few pages, in blocks of 512 or 1024 bytes. SIGXFSZ is ignored, so that writes fail as on a full
    // disk.
    let run = |limit: &str| {
        let script = format!("trap '' XFSZ; {limit} exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_flash-cli"), "run", "--model", tiny.dir()]);
        command.args(["--kv-dir", &kv_dir, "--kv-quant", "8", "--session", "a", "--ignore-eos"]);
        command.args(["--prompt", &words(60), "--max-tokens", "600"]);
        command.output().unwrap()
    };
    let full = run("ulimit -f 32;");
    assert!(!full.status.success());
    assert!(stderr(&full).contains("full"), "{}", stderr(&full));
    kv(&tiny, &["rm", "a"]);
    let whole = run("");
    assert!(whole.status.success(), "{}", stderr(&whole));
    let (said, all) = (stdout(&full).trim_end(), stdout(&whole));
    assert!(said.split(' ').count() > 100, "{said}");
    assert!(all.starts_with(said), "{said}");
}

#[test]
fn a_session_killed_at_any_moment_resumes_with_its_own_tokens() {
    kill(&Tiny::new(2));
}

#[test]
fn a_recurrent_session_killed_at_any_moment_resumes_from_a_save() {
    kill(&Tiny::recurrent());
}

/// Kills runs of a session, and checks each time that it resumes.
fn kill(tiny: &Tiny) {
    let kills = std::env::var("FLASH_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let kv_dir = kv_dir(tiny);
    let command = |prompt: &str, max_tokens: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flash-cli"));
        command.args([
            "run",
            "--model",
            tiny.dir(),
            "--kv-dir",
            &kv_dir,
            "--session",
            "a",
            "--json",
            "--ignore-eos",
        ]);
        command.args(["--kv-quant", "0", "--prompt", prompt, "--max-tokens", max_tokens]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // Slightly longer than a whole run, so that the final save is interrupted, too.
    let whole = (0..2).map(|_| {
        let begun = Instant::now();
        assert!(command(&words(60), "400").output().unwrap().status.success());
        begun.elapsed()
    });
    let longest = whole.min().unwrap() * 9 / 8;
    kv(tiny, &["rm", "a"]);
    for round in 0..kills {
        let mut child = command(&words(60), "400").spawn().unwrap();
        // Kill times are distinct and spread evenly.
        thread::sleep(longest.mul_f64((round as f64 * GOLDEN_RATIO).fract()));
        child.kill().unwrap();
        child.wait().unwrap();
        let said = command("7", "1").output().unwrap();
        assert!(said.status.success(), "round {round}: {}", stderr(&said));
        // The transcript is consistent: without a session, the same tokens give the same next token.
        let kept: Value =
            serde_json::from_slice(&fs::read(tiny.path("kv/sessions/a/context.json")).unwrap()).unwrap();
        let ids: Vec<u64> =
            kept["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let (last, before) = ids.split_last().unwrap();
        if round % 5 == 0 || ids.len() > 1400 {
            let text = before.iter().map(|id| word(*id)).collect::<Vec<_>>().join(" ");
            let alone = run(tiny, &["--ignore-eos", "--max-tokens", "1", "--prompt", &text]);
            assert_eq!(alone["token_ids"][0], *last, "round {round}");
        }
        if ids.len() > 1400 {
            kv(tiny, &["rm", "a"]);
        }
    }
}

/// Returns the word of a token.
fn word(id: u64) -> String {
    match id {
        0 => "<unk>".to_owned(),
        1 => "</s>".to_owned(),
        2 => "user".to_owned(),
        3 => "assistant".to_owned(),
        number => number.to_string(),
    }
}
