//! The output of `bench` and `--trace`, not the speed.

use std::fs;

use serde_json::Value;

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, flash_cli, floor_mib, json, output, stdout};

/// Number of layers, enough that a budget a few MiB above the floor streams most of them.
const N_LAYERS: usize = 320;

fn ram_that_streams(tiny: &Tiny) -> String {
    let args = ["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "300"];
    format!("{}MiB", floor_mib(args) + 10)
}

#[test]
fn trace_has_every_read_and_computed_bundle() {
    let tiny = Tiny::new(N_LAYERS);
    let file = tiny.path("trace.json");
    let args = ["run", "--model", tiny.dir(), "--prompt", "5 6 7", "--max-tokens", "4", "--ignore-eos"];
    let ram = ram_that_streams(&tiny);
    let plain = output([&args[..], &["--ram", &ram]].concat());
    let traced = flash_cli(args).args(["--ram", &ram, "--trace"]).arg(&file).output().unwrap();
    assert_eq!(stdout(&traced), stdout(&plain));

    let events: Vec<Value> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let rows: Vec<_> = events.iter().filter(|event| event["ph"] == "M").collect();
    let row = |name: &str| rows.iter().find(|row| row["args"]["name"] == name).unwrap()["tid"].clone();
    let of = |name: &str| {
        let tid = row(name);
        events.iter().filter(move |event| event["ph"] == "X" && event["tid"] == tid).collect::<Vec<_>>()
    };
    let tokens: Vec<_> = of("tokens").iter().map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(tokens, ["3 tokens", "1 token", "1 token", "1 token"]);
    for layer in ["model.layers.0", "model.layers.37", "model.layers.159"] {
        assert!(of("disk").iter().any(|event| event["name"] == layer), "{layer} was never read");
    }
    assert!(of("compute").len() >= 4, "{events:?}");
    assert!(events.iter().filter(|event| event["ph"] == "X").all(|event| event["dur"].as_f64() >= Some(0.0)));
    // Reads do not overlap.
    let mut reads = of("disk");
    reads.retain(|event| event["dur"].as_f64() > Some(0.0));
    let end = |event: &Value| event["ts"].as_f64().unwrap() + event["dur"].as_f64().unwrap();
    assert!(reads.windows(2).all(|pair| pair[1]["ts"].as_f64().unwrap() >= end(pair[0]) - 1e-3));
}

#[test]
fn trace_that_cannot_be_written_is_refused_before_any_text() {
    let tiny = Tiny::new(2);
    let args = ["run", "--model", tiny.dir(), "--prompt", "5", "--trace", "/no/such/folder/trace.json"];
    assert_refused(&output(args), 1, &["/no/such/folder/trace.json: cannot be written"]);
}

#[test]
fn stream_and_prefill_report_their_measurements() {
    let tiny = Tiny::new(N_LAYERS);
    let ram = ram_that_streams(&tiny);
    for (verb, tokens) in [("stream", "5"), ("prefill", "150")] {
        let args = ["bench", verb, "--model", tiny.dir(), "--ram", &ram, "--tokens", tokens];
        let report = json(&output([&args[..], &["--json"]].concat()));
        let fraction = report["limit_fraction"].as_f64().unwrap();
        assert!(fraction.is_finite() && fraction > 0.0, "{report}");
        assert!(report["disk_bytes_per_s"].as_array().unwrap().len() > 2, "{report}");
        assert!(stdout(&output(args)).contains("limit fraction"));
        if verb == "prefill" {
            assert_eq!(report["streamed_bytes"], report["pass_bytes"], "a prompt costs one pass");
            assert!(report["pass_bytes"].as_u64().unwrap() > 0, "nothing was streamed: {report}");
        }
    }
}

#[test]
fn io_prints_the_grid_and_the_reader() {
    let tiny = Tiny::new(N_LAYERS);
    let report = json(&output(["bench", "io", "--model", tiny.dir(), "--io", "pread", "--json"]));
    assert!(report["cells"].as_array().unwrap().iter().all(|cell| cell["io"] == "pread"));
    assert!(!report["cells"].as_array().unwrap().is_empty());
    assert!(report["reader"]["bytes_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn bench_kernels_compares_each_format_with_memory() {
    let report = json(&output(["bench", "kernels", "--memory", "40MiB", "--ms", "1", "--json"]));
    assert!(report["memory_bytes_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["tuning"]["threads"].as_u64().unwrap() > 0);
    let products = report["products"].as_array().unwrap();
    for format in ["q4g32", "q4g64", "q4g128", "q8g64", "mxfp4", "f16"] {
        let is_of = |row: &&Value| row["format"] == format && row["kernels"] == report["tuning"]["kernels"];
        assert_eq!(products.iter().filter(is_of).count(), 1, "{format}: {report}");
    }
    for row in products {
        let speeds = row["bytes_per_s"].as_array().unwrap();
        assert_eq!(speeds.len(), row["rows"].as_array().unwrap().len());
        assert!(speeds.iter().all(|speed| speed.as_f64().unwrap() > 0.0));
    }
}

#[test]
fn bench_kernels_rejects_what_the_machine_does_not_have() {
    let bench = |flag, value| output(["bench", "kernels", flag, value]);
    assert_refused(&bench("--kernels", "avx1024"), 1, &["avx1024", "portable"]);
    assert_refused(&bench("--memory", "100TiB"), 1, &["--memory", "are free"]);
    assert_refused(&bench("--memory", "1MiB"), 1, &["--memory must be at least 32.0 MiB"]);
}

#[test]
fn bench_experts_rejects_numbers_out_of_range() {
    let bench = |flag, value| output(["bench", "experts", flag, value]);
    assert_refused(&bench("--experts", "18446744073709551615"), 1, &["--experts must be at most 65536"]);
    assert_refused(&bench("--tokens", "0"), 1, &["--tokens must be from 1 to"]);
    assert_refused(&bench("--top-k", "0"), 1, &["--top-k must be at least 1"]);
}

#[test]
fn bench_experts_compares_policies_with_the_optimum() {
    let rows = json(&output(["bench", "experts", "--tokens", "500", "--json"]));
    let rows = rows.as_array().unwrap();
    let rate = |row: &Value, policy: &str| row[policy].as_f64().unwrap();
    for row in rows {
        for policy in ["lru", "lfu", "two_memories"] {
            assert!(rate(row, policy) <= rate(row, "best"), "{row}");
        }
    }
    assert!(rows.iter().any(|row| rate(row, "two_memories") > 0.5));
}

#[test]
fn batch_reports_each_number_of_clients() {
    let tiny = Tiny::new(N_LAYERS);
    // Room for four contexts, and for few of the layers.
    let ram = "145MiB";
    let args = ["bench", "batch", "--model", tiny.dir(), "--ram", ram, "--tokens", "2", "--clients", "1,3"];
    let report = json(&output([&args[..], &["--prompt-tokens", "5", "--json"]].concat()));
    let rows = report.as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["clients"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    for row in rows {
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"));
        let fields =
            ["tok_per_s", "tok_per_s_each", "limit_fraction", "pass_ms", "newcomer_ttft_ms", "compute_ms"];
        assert!(fields.iter().all(|field| number(field) > 0.0), "{row}");
        assert!((number("tok_per_s") / number("tok_per_s_each") - number("clients")).abs() < 1e-9, "{row}");
        assert!(number("peak_rss_bytes") <= number("budget_bytes"), "{row}");
    }
    // Contexts leave less room for weights.
    assert!(rows[1]["streamed_bytes_per_token"].as_u64() > Some(0), "{report}");

    let shown = output(args);
    assert!(stdout(&shown).contains("limit fraction") && stdout(&shown).contains('█'));
    assert_refused(&output([&args[..args.len() - 1], &["0"]].concat()), 1, &["--clients must be at least 1"]);
}
