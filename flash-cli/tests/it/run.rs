//! `run`, on a small synthetic model.

use std::process::Output;

use crate::support::tiny::{CONTEXT_TOKENS, Tiny};
use crate::support::{assert_refused, flash_cli, floor_mib, json, output, refused_floor_mib, stderr, stdout};

const FIELDS: [&str; 25] = [
    "text",
    "token_ids",
    "prompt_tokens",
    "reused_tokens",
    "generated_tokens",
    "finish_reason",
    "load_ms",
    "ttft_ms",
    "decode_tok_per_s",
    "model_bytes",
    "pinned_bytes",
    "table_bytes",
    "budget_bytes",
    "streamed_bytes",
    "streamed_bytes_per_token",
    "passes",
    "tokens_per_pass",
    "drafted",
    "accepted",
    "drafts",
    "compute_ms",
    "stall_ms",
    "peak_rss_bytes",
    "io",
    "seed",
];

#[test]
fn json_has_every_field_in_order() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5 6 7", "--max-tokens", "4", "--json"];
    let output = output([&args[..], &["--io", "pread"]].concat());
    let report = json(&output);
    let places: Vec<_> = FIELDS.iter().map(|field| stdout(&output).find(&format!("\"{field}\":"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{}", stdout(&output));
    assert_eq!(report.as_object().unwrap().len(), FIELDS.len());
    assert_eq!(report["prompt_tokens"], 3);
    assert_eq!(
        report["generated_tokens"].as_u64(),
        report["token_ids"].as_array().map(|ids| ids.len() as u64)
    );
    assert_eq!(report["io"], "pread");
}

#[test]
fn the_default_io_mode_is_reported_by_name() {
    let tiny = Tiny::new(2);
    let report =
        json(&output(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "1", "--json"]));
    let io = report["io"].as_str().unwrap();
    assert!(["uring", "direct", "pread"].contains(&io), "{io}");
}

#[test]
fn text_is_that_of_json_and_a_line_end() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5 6 7", "--max-tokens", "6"];
    let plain = output(args);
    let report = json(&flash_cli(args).arg("--json").output().unwrap());
    assert_eq!(stdout(&plain), format!("{}\n", report["text"].as_str().unwrap()));
    assert_eq!(stderr(&plain), "", "without a terminal there are no notes");
}

#[test]
fn prompts_come_from_flags_files_and_pipes_alike() {
    let tiny = Tiny::new(2);
    tiny.write("prompt", b"5 6 7");
    let file = tiny.path("prompt");
    let args = ["run", "--model", tiny.dir(), "--max-tokens", "6"];
    let given = flash_cli(args).args(["--prompt", "5 6 7"]).output().unwrap();
    let in_a_file = flash_cli(args).arg("--prompt-file").arg(file).output().unwrap();
    let piped = flash_cli(args).write_stdin("5 6 7").output().unwrap();
    assert!(given.status.success() && !given.stdout.is_empty());
    assert_eq!((&given.stdout, &given.stdout), (&in_a_file.stdout, &piped.stdout));
}

#[test]
fn budget_io_threads_and_pipeline_change_no_token() {
    let tiny = Tiny::new(160);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5 6 7", "--max-tokens", "8", "--json"];
    let floor = format!("{}MiB", floor_mib(args));
    let expected = json(&output(args));
    assert_eq!(expected["streamed_bytes"], 0, "everything fits");
    let variants: [&[&str]; 5] = [
        &["--ram", &floor],
        &["--ram", &floor, "--no-pipeline"],
        &["--ram", &floor, "--io", "pread", "--threads", "1"],
        &["--ram", &floor, "--io", "mmap"],
        &["--max-read-rate", "1GB"],
    ];
    for variant in variants {
        let report = json(&flash_cli(args).args(variant).output().unwrap());
        assert_eq!(report["token_ids"], expected["token_ids"], "{variant:?}");
        assert_eq!(report["streamed_bytes"].as_u64() > Some(0), variant.contains(&"--ram"), "{variant:?}");
    }
}

#[test]
fn debug_prints_the_plan_to_stderr() {
    let tiny = Tiny::new(2);
    let output = output(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "2", "--debug"]);
    assert!(output.status.success());
    for part in ["needs: process ", "floor ", "plan: ", "pinned   model.layers.1 (", "peak memory "] {
        assert!(stderr(&output).contains(part), "{part:?} is not in {}", stderr(&output));
    }
}

#[test]
fn summary_is_printed_if_requested() {
    let tiny = Tiny::new(2);
    let output = output(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "4", "--summary"]);
    assert!(output.status.success());
    let summary = stderr(&output);
    assert_eq!(summary.lines().count(), 1, "{summary}");
    for part in ["tok/s", "% of the limit", "budget ", "model ", "streamed ", "peak memory "] {
        assert!(summary.contains(part), "{part:?} is not in {summary}");
    }
}

#[test]
fn the_same_seed_samples_the_same_text() {
    let tiny = Tiny::new(2);
    let run = |seed: &str| {
        let args = [
            "run",
            "--model",
            tiny.dir(),
            "--prompt",
            "5",
            "--max-tokens",
            "12",
            "--temp",
            "2",
            "--seed",
            seed,
        ];
        output(args).stdout
    };
    assert_eq!(run("1"), run("1"));
    assert!((2..6).any(|seed| run(&seed.to_string()) != run("1")));
}

#[test]
fn seed_minus_one_is_a_different_one_each_time_and_is_reported() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "12", "--temp", "2", "--json"];
    let run = |seed: &str| json(&flash_cli(args).args(["--seed", seed]).output().unwrap());
    let (one, other) = (run("-1"), run("-1"));
    assert_ne!(one["seed"], other["seed"]);
    let again = run(&one["seed"].to_string());
    assert_eq!((&again["token_ids"], &again["seed"]), (&one["token_ids"], &one["seed"]));
    let debug = flash_cli(args).args(["--seed", "7", "--debug"]).output().unwrap();
    assert!(stderr(&debug).contains("seed: 7\n"), "{}", stderr(&debug));
}

#[test]
fn without_a_seed_it_is_a_different_one_each_time_and_is_reported_if_used() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "12"];
    let run = |more: &[&str]| flash_cli(args).args(more).output().unwrap();
    let reported = |output: &Output| {
        let seed = stderr(output).lines().find_map(|line| line.strip_prefix("seed: "));
        seed.map(ToOwned::to_owned)
    };
    let (one, other) = (run(&["--temp", "2"]), run(&["--temp", "2"]));
    let seed = reported(&one).expect("a seed");
    assert_ne!(Some(&seed), reported(&other).as_ref());
    let again = run(&["--temp", "2", "--seed", &seed]);
    assert_eq!((again.stdout.as_slice(), reported(&again)), (one.stdout.as_slice(), None));
    assert_eq!(reported(&run(&[])), None, "greedy sampling uses no seed");
    assert_eq!(json(&run(&["--json"]))["seed"], 0);
    assert_ne!(json(&run(&["--temp", "2", "--json"]))["seed"], 0);
}

#[test]
fn top_k_minus_one_is_off() {
    let tiny = Tiny::new(2);
    let args =
        ["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "12", "--temp", "2", "--seed", "3"];
    let run = |top_k: &str| flash_cli(args).args(["--top-k", top_k]).output().unwrap();
    assert_eq!(run("-1").stdout, run("0").stdout);
    assert_ne!(run("-1").stdout, run("1").stdout);
    assert_refused(&run("-2"), 2, &["--top-k", "-2"]);
}

#[test]
fn budgets_have_the_units_of_other_programs() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "1", "--json"];
    for (ram, bytes) in [("1G", 1 << 30), ("512M", 512 << 20), ("1.5GB", 1_500_000_000), ("2g", 2u64 << 30)] {
        let report = json(&flash_cli(args).args(["--ram", ram]).output().unwrap());
        assert_eq!(report["budget_bytes"].as_u64(), Some(bytes), "{ram}");
    }
}

#[test]
fn stop_text_ends_the_text_before_it() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5 6 7", "--max-tokens", "8", "--json"];
    let whole = json(&output(args));
    let text = whole["text"].as_str().unwrap();
    let word = text.split(' ').nth(3).unwrap();
    let stopped = json(&flash_cli(args).args(["--stop", "never", "--stop", word]).output().unwrap());
    let (before, _) = text.split_once(word).unwrap();
    assert_eq!((stopped["text"].as_str(), &stopped["finish_reason"]), (Some(before), &"stop".into()));
}

#[test]
fn ignore_eos_continues_after_the_end_of_an_answer() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5 6 7", "--max-tokens", "8", "--json"];
    let whole = json(&output(args));
    // Declares a token that the model generates as the end of an answer.
    tiny.set_config("eos_token_id", whole["token_ids"][3].clone());
    let ended = json(&output(args));
    assert_eq!(ended["finish_reason"], "stop");
    assert!(ended["generated_tokens"].as_u64() <= Some(4), "{ended}");
    let ignored = json(&flash_cli(args).arg("--ignore-eos").output().unwrap());
    assert_eq!((&ignored["token_ids"], &ignored["finish_reason"]), (&whole["token_ids"], &"length".into()));
}

#[test]
fn warm_up_is_not_a_part_of_what_is_reported() {
    let tiny = Tiny::new(160);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5 6 7", "--max-tokens", "8", "--json"];
    let ram = format!("{}MiB", floor_mib(args));
    let cold = json(&flash_cli(args).args(["--ram", &ram]).output().unwrap());
    let warm = json(&flash_cli(args).args(["--ram", &ram, "--warm-up"]).output().unwrap());
    for field in ["token_ids", "prompt_tokens", "generated_tokens"] {
        assert_eq!(warm[field], cold[field], "{field}");
    }
    // One pass of the prompt and one for each token but the last. The two runs may pin different numbers of layers.
    for report in [cold, warm] {
        let bytes = |field: &str| report[field].as_u64().unwrap();
        let pass_bytes = bytes("model_bytes") - bytes("pinned_bytes");
        assert!(pass_bytes > 0 && bytes("streamed_bytes") == 8 * pass_bytes, "{report}");
    }
}

#[test]
fn answer_ends_where_the_context_does() {
    let tiny = Tiny::new(1);
    tiny.set_config("max_position_embeddings", 300.into());
    let prompt = "5 ".repeat(297);
    let args = ["run", "--model", tiny.dir(), "--prompt", &prompt, "--max-tokens", "1000000", "--json"];
    let report = json(&output(args));
    assert_eq!(report["finish_reason"], "length");
    // The last token is sampled but not passed through the model.
    assert_eq!(report["generated_tokens"], 4);
    assert!(report["budget_bytes"].as_u64() > Some(CONTEXT_TOKENS as u64));
}

#[test]
fn budget_below_the_floor_is_refused_with_the_floor() {
    let tiny = Tiny::new(160);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "2"];
    let floor_mib = floor_mib(args);
    let ram = |mib: u64| flash_cli(args).args(["--ram", &format!("{mib}MiB")]).output().unwrap();
    assert!(refused_floor_mib(flash_cli(args), floor_mib / 2).abs_diff(floor_mib) <= 4);
    let at_the_floor = ram(floor_mib + 1);
    assert!(at_the_floor.status.success(), "{}", stderr(&at_the_floor));
}

/// Runs the program, and returns the bytes that it read, as counted by the kernel.
#[cfg(target_os = "linux")]
fn read_bytes(args: &[&str]) -> u64 {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    use std::{fs, thread};

    let mut command = Command::new(env!("CARGO_BIN_EXE_flash-cli"));
    let mut child = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let proc = std::path::PathBuf::from(format!("/proc/{}", child.id()));
    let deadline = Instant::now() + Duration::from_secs(60);
    // A zombie process keeps its counters until it is waited for.
    while !fs::read_to_string(proc.join("stat")).unwrap().contains(") Z ") {
        assert!(Instant::now() < deadline, "the program does not end");
        thread::sleep(Duration::from_millis(5));
    }
    let io = fs::read_to_string(proc.join("io")).unwrap();
    child.wait().unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn budget_below_the_floor_is_refused_before_any_weight_is_read() {
    const LAYERS_BYTES: u64 = 64 * 147_968;
    let tiny = Tiny::new(160);
    // `rchar` counts the bytes of system calls, which io_uring does not use.
    let args = ["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "1", "--io", "pread"];
    let whole = read_bytes(&args);
    let refused = read_bytes(&[&args[..], &["--ram", "1MiB"]].concat());
    assert!(whole > refused + LAYERS_BYTES * 9 / 10, "{whole} B read in all, {refused} B when refused");
    assert!(refused < LAYERS_BYTES / 4, "{refused} B");
}
