//! `plan`.

use std::process::Output;

use serde_json::Value;

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, floor_mib, json, output, stdout};

/// A disk so slow that it is the limit, and a budget that streams most layers.
const SLOW_DISK: [&str; 4] = ["--disk", "1MB/s", "--compute", "1ms"];

fn plan(tiny: &Tiny, args: &[&str]) -> Output {
    output([&["plan", "--model", tiny.dir()], args].concat())
}

fn floor_bytes(tiny: &Tiny) -> u64 {
    json(&plan(tiny, &["--json"]))["floor_bytes"].as_u64().unwrap()
}

/// The report for a budget that many bytes above the floor.
fn report_above_floor(tiny: &Tiny, more_bytes: u64, args: &[&str]) -> Value {
    // The resident memory of the process, and with it the floor, varies a little between runs.
    let ram = format!("{}B", floor_bytes(tiny) + (1 << 20) + more_bytes);
    json(&plan(tiny, &[args, &["--json", "--ram", &ram]].concat()))
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {report}"))
}

#[test]
fn pinned_and_streamed_are_those_of_run() {
    let tiny = Tiny::new(120);
    // The context of the run below.
    let report = report_above_floor(&tiny, 3 << 20, &["--ctx", "6"]);
    let ram = format!("{}B", report["budget_bytes"]);
    let args = ["--prompt", "5 6", "--max-tokens", "4", "--ignore-eos", "--json", "--ram", &ram];
    let run = json(&output([&["run", "--model", tiny.dir()], &args[..]].concat()));
    let (planned, pinned) = (report["pinned_bytes"].as_u64().unwrap(), run["pinned_bytes"].as_u64().unwrap());
    // The two processes differ by up to 2 MiB.
    assert!(planned > 0 && planned.abs_diff(pinned) <= 2 << 20, "{report} and {run}");
    let streamed_bytes = report["streamed_bytes_per_token"].as_u64().unwrap();
    assert_eq!(planned + streamed_bytes, run["model_bytes"].as_u64().unwrap(), "{report}");
}

#[test]
fn floor_is_that_of_run_and_below_it_is_refused() {
    let tiny = Tiny::new(8);
    let of_run = floor_mib(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "200"]) << 20;
    assert!(of_run.abs_diff(floor_bytes(&tiny)) <= 4 << 20, "{of_run} B");
    assert_refused(&plan(&tiny, &["--ram", "1MiB"]), 1, &["a budget of 1 MiB is below the floor of "]);
}

#[test]
fn a_longer_context_has_a_higher_floor() {
    let tiny = Tiny::new(160);
    let long = json(&plan(&tiny, &["--json", "--ctx", "2000"]));
    assert_eq!(long["context_tokens"], 2000);
    let (long_bytes, short_bytes) = (long["floor_bytes"].as_u64().unwrap(), floor_bytes(&tiny));
    assert!(long_bytes > short_bytes + (4 << 20), "{long_bytes} B and {short_bytes} B");
    let longer_than_trained = json(&plan(&tiny, &["--json", "--ctx", "1000000"]));
    assert_eq!(longer_than_trained["context_tokens"], 2048);
}

#[test]
fn a_slow_disk_is_the_limit_and_memory_buys_speed() {
    let tiny = Tiny::new(120);
    let report = report_above_floor(&tiny, 0, &SLOW_DISK);
    assert_eq!(report["limited_by"], "disk");
    // The disk's rate, and what is streamed.
    let reading_ms = number(&report, "streamed_bytes_per_token") / 1e3;
    assert!((number(&report, "reading_ms") / reading_ms - 1.0).abs() < 1e-6, "{report}");
    assert!((number(&report, "tok_per_s") * reading_ms / 1e3 - 1.0).abs() < 0.02, "{report}");
    // In a GiB more, everything is in memory: a token takes its compute.
    assert!((number(&report["next_gib"], "tok_per_s") / 1000.0 - 1.0).abs() < 0.01, "{report}");
    assert_eq!(report["next_gib"]["limited_by"], "compute");
}

#[test]
fn slow_compute_is_the_limit_and_memory_buys_nothing() {
    let tiny = Tiny::new(120);
    let report = report_above_floor(&tiny, 0, &["--disk", "7GB/s", "--compute", "10s"]);
    assert_eq!(report["limited_by"], "compute");
    assert!((number(&report, "tok_per_s") - 0.1).abs() < 0.001, "{report}");
    let ram = format!("{}B", report["budget_bytes"]);
    let output = plan(&tiny, &["--disk", "7", "--compute", "10s", "--ram", &ram]);
    assert!(stdout(&output).contains("the speed would be the same"), "{}", stdout(&output));
}

#[test]
fn everything_in_memory_leaves_nothing_to_buy() {
    let tiny = Tiny::new(3);
    let report = json(&plan(&tiny, &["--json", "--ram", "4GiB", "--compute", "1GB/s"]));
    assert_eq!((&report["streamed_bytes_per_token"], &report["n_slots"]), (&0.into(), &0.into()));
    assert!(report["next_gib"].is_null());
    let compute_ms = number(&report, "pinned_bytes") / 1e6;
    assert!((number(&report, "token_ms") / compute_ms - 1.0).abs() < 0.001, "{report}");
    let output = plan(&tiny, &["--ram", "4GiB"]);
    assert!(stdout(&output).contains("all weights are in memory"), "{}", stdout(&output));
}

#[test]
fn more_memory_is_never_predicted_slower() {
    let tiny = Tiny::new(120);
    let report = json(&plan(&tiny, &["--json", "--disk", "100MB/s", "--compute", "30ms"]));
    let curve = report["curve"].as_array().unwrap();
    assert_eq!(curve[0]["budget_bytes"], report["floor_bytes"]);
    assert_eq!(curve.last().unwrap()["budget_bytes"], report["resident_bytes"]);
    let speeds: Vec<f64> = curve.iter().map(|point| number(point, "tok_per_s")).collect();
    assert!(speeds.is_sorted() && speeds.last() > speeds.first(), "{speeds:?}");
}

#[test]
fn the_text_has_tables_and_a_chart_no_wider_than_a_terminal() {
    let tiny = Tiny::new(120);
    let ram = format!("{}B", floor_bytes(&tiny) + (2 << 20));
    let output = plan(&tiny, &["--ram", &ram, "--disk", "100MB/s"]);
    let text = stdout(&output);
    for part in [
        "Memory\n",
        "floor ",
        " of 15",
        "model.layers.*",
        " pinned, ",
        "█░",
        "weights at 20.0 GB/s, assumed: --compute sets it",
        "100 MB/s\n",
        "disk: more memory",
        "next GiB",
        "Tokens per second by budget\n",
        "▲ ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn a_model_of_one_layer_is_planned_without_a_tokenizer() {
    let tiny = Tiny::new(1);
    std::fs::remove_file(tiny.path("tokenizer.json")).unwrap();
    assert!(plan(&tiny, &[]).status.success());
}

#[test]
fn invalid_speeds_are_rejected() {
    let tiny = Tiny::new(1);
    let table = [
        ("--disk=0", "--disk <RATE>", "must be positive"),
        ("--disk=-1GB/s", "--disk <RATE>", "must be positive"),
        ("--disk=fast", "--disk <RATE>", "is not a rate"),
        ("--disk=7GB", "--disk <RATE>", "is not a rate"),
        ("--compute=100", "--compute <SPEED>", "neither a time per token"),
        ("--compute=-5ms", "--compute <SPEED>", "must be positive"),
        ("--compute=native", "--compute <SPEED>", "neither a time per token"),
        ("--ctx=0", "--ctx must be at least 1", "found 0"),
        ("--ram=none", "--ram <SIZE>", "is not a size"),
    ];
    for (flag, name, complaint) in table {
        assert_refused(&plan(&tiny, &[flag]), 2, &[name, complaint]);
    }
    assert_refused(&output(["plan"]), 2, &["--model <MODEL>"]);
    assert_refused(&output(["plan", "--model", "/nowhere"]), 1, &["/nowhere"]);
}

#[test]
fn extreme_speeds_have_finite_predictions() {
    let tiny = Tiny::new(2);
    for args in [["--disk=18000000TB/s", "--compute=0.000001us"], ["--disk=1B/s", "--compute=9999999999999s"]]
    {
        let report = json(&plan(&tiny, &[&args[..], &["--json"]].concat()));
        assert!(number(&report, "tok_per_s") > 0.0, "{report}");
        assert!(plan(&tiny, &args).status.success());
    }
}
