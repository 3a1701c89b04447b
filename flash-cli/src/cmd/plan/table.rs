//! Formats the report of `plan` as text.

use super::chart;
use super::report::{ExpertsReport, Report, SpeedReport};
use crate::layers;
use crate::options::{Assumable, PlanOptions};
use crate::size::Bytes;
use crate::speed::Digits;
use crate::table::{Cell, count, left, section, size};

/// Smallest gain that is reported; predictions are not more precise.
const PERCENT_MIN: f64 = 0.5;

/// Formats the report, with styles, for a terminal with `columns` columns.
pub(super) fn render(report: &Report, options: &PlanOptions, columns: usize) -> String {
    let mut sections = vec![
        section("Memory", &memory(report, options)),
        section("Bundles", &bundles(report)) + &places(report, columns),
        section("Prediction", &prediction(report, options)),
    ];
    if report.floor_bytes < report.resident_bytes {
        sections.push(section("Tokens per second by budget", &[]) + &chart::render(report));
    }
    sections.join("\n")
}

fn memory(report: &Report, options: &PlanOptions) -> Vec<Vec<Cell>> {
    let budget = if options.ram.is_some() { "" } else { "free memory minus headroom; --ram sets it" };
    let slots = match report.n_slots {
        0 => "none, nothing is streamed".to_owned(),
        n_slots => format!("{n_slots} of {}", Bytes(report.slot_bytes)),
    };
    let n_pinned = report.bundles.iter().filter(|bundle| bundle.is_pinned).count();
    let n_streamed = report.bundles.len() - n_pinned;
    let context = report.context_tokens;
    let mut rows = vec![
        vec![left("budget"), size(report.budget_bytes), left(budget)],
        vec![left("floor"), size(report.floor_bytes), left(format!("for a context of {context} tokens"))],
        vec![left("not weights"), size(report.other_bytes), left("program, KV cache, activations")],
        vec![left("pinned"), size(report.pinned_bytes), left(count(n_pinned, "bundle"))],
        vec![left("slots"), size(report.n_slots as u64 * report.slot_bytes), left(slots)],
        vec![
            left("streamed"),
            size(report.streamed_bytes_per_token),
            left(format!("{}, per token", count(n_streamed, "bundle"))),
        ],
    ];
    if let Some(experts) = &report.experts {
        let ExpertsReport { n_experts, n_held, held_bytes, total_bytes, bytes_per_token } = *experts;
        rows.push(vec![
            left("experts"),
            size(held_bytes),
            left(format!(
                "{n_held} of {n_experts}, {} in total; {} per token",
                Bytes(total_bytes),
                Bytes(bytes_per_token)
            )),
        ]);
    }
    rows
}

/// Returns the rows of the bundles, merging those that differ only in layer or row range.
fn bundles(report: &Report) -> Vec<Vec<Cell>> {
    let mut kinds: Vec<(String, [usize; 2], u64)> = Vec::new();
    for bundle in &report.bundles {
        // Bundles of a row range have it in brackets after the name.
        let name = layers::collapse(bundle.name.split('[').next().unwrap_or(&bundle.name));
        let idx = kinds.iter().position(|kind| kind.0 == name).unwrap_or_else(|| {
            kinds.push((name, [0; 2], 0));
            kinds.len() - 1
        });
        let (_, counts, bytes) = &mut kinds[idx];
        counts[usize::from(bundle.is_pinned)] += 1;
        *bytes += bundle.bytes;
    }
    let row = |(name, [n_streamed, n_pinned], bytes): (String, [usize; 2], u64)| {
        vec![left(name), size(bytes), left(format!("{n_pinned} pinned, {n_streamed} streamed"))]
    };
    kinds.into_iter().map(row).collect()
}

/// Draws one character per bundle, in execution order.
fn places(report: &Report, columns: usize) -> String {
    let signs: Vec<char> =
        report.bundles.iter().map(|bundle| if bundle.is_pinned { '█' } else { '░' }).collect();
    let lines = signs.chunks(columns.saturating_sub(4).max(1));
    let lines: String = lines.map(|line| format!("  {}\n", line.iter().collect::<String>())).collect();
    format!("{lines}  in execution order: █ pinned, ░ streamed\n")
}

fn prediction(report: &Report, options: &PlanOptions) -> Vec<Vec<Cell>> {
    let SpeedReport { tok_per_s, token_ms, compute_ms, reading_ms, limited_by } = report.speed;
    let limit = match limited_by {
        "compute" => "compute: a faster disk or more memory would not help",
        "disk" => "disk: more memory or a faster disk would help",
        _ => "neither alone: reads and compute wait for each other",
    };
    vec![
        vec![left("speed"), number(tok_per_s, "tok/s"), left(format!("{} ms per token", Digits(token_ms)))],
        vec![left("compute"), number(compute_ms, "ms"), left(source(&options.compute, "--compute"))],
        vec![left("reads"), number(reading_ms, "ms"), left(source(&options.disk, "--disk"))],
        vec![left("limited by"), left(""), left(limit)],
        vec![left("next GiB"), left(""), left(next_gib(report))],
    ]
}

fn number(number: f64, unit: &str) -> Cell {
    (format!("{} {unit}", Digits(number)), true)
}

/// Describes a speed, and the flag that sets it if it was assumed.
fn source<T: std::fmt::Display>(speed: &Assumable<T>, flag: &str) -> String {
    let Assumable { value, is_assumed } = speed;
    if *is_assumed { format!("{value}, assumed: {flag} sets it") } else { value.to_string() }
}

fn next_gib(report: &Report) -> String {
    match report.next_gib {
        None => "no gain: all weights are in memory".to_owned(),
        Some(next) => {
            let percent = 100.0 * (next.tok_per_s / report.speed.tok_per_s - 1.0);
            if percent < PERCENT_MIN {
                return "no gain: the speed would be the same".to_owned();
            }
            format!("{} tok/s, {percent:.0} % more", Digits(next.tok_per_s))
        }
    }
}
