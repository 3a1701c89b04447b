//! Formats the report of `inspect` as text.

use std::collections::BTreeMap;

use super::report::Report;
use crate::layers;
use crate::size::Bytes;
use crate::table::{Cell, count, left, section, size};

/// Formats the report, with styles.
pub(super) fn render(report: &Report) -> String {
    let sections = [
        section("Model", &model(report)),
        section("Memory", &memory(report)),
        section("Bytes by kind", &kinds(report)),
        section("Bundles", &bundles(report)),
        section("Tensors", &tensors(report)),
    ];
    sections.join("\n")
}

fn model(report: &Report) -> Vec<Vec<Cell>> {
    let context = report.max_context_tokens.map_or("unknown".to_owned(), |tokens| format!("{tokens} tokens"));
    vec![
        vec![left("type"), left(report.model_type.as_str())],
        vec![left("weights"), left(Bytes(report.model_bytes).to_string())],
        vec![left("tensors"), left(format!("{} in {}", report.n_tensors, count(report.n_shards, "file")))],
        vec![left("trained context"), left(context)],
    ]
}

fn memory(report: &Report) -> Vec<Vec<Cell>> {
    let needs = &report.needs;
    let floor = Report::workload();
    let state = match report.state_bytes {
        0 => String::new(),
        bytes => format!(", plus {} of state", Bytes(bytes)),
    };
    let mut rows = vec![
        vec![left("floor"), size(report.floor_bytes), left(format!("minimum --ram for {floor}"))],
        vec![
            left("floor without pipeline"),
            size(report.floor_no_pipeline_bytes),
            left("with --no-pipeline"),
        ],
        vec![left("process"), size(needs.process_bytes), left("part of the floor: program and tokenizer")],
        vec![
            left("KV cache"),
            size(needs.kv_bytes),
            left(format!("{} per token{state}", Bytes(report.kv_token_bytes))),
        ],
        vec![left("activations"), size(needs.activation_bytes), left("")],
        vec![left("small weights"), size(needs.small_weights_bytes), left("too small to stream")],
    ];
    if needs.expert_bytes > 0 {
        rows.push(vec![left("experts"), size(needs.expert_bytes), left("slots for the experts of a token")]);
    }
    rows
}

fn kinds(report: &Report) -> Vec<Vec<Cell>> {
    let rows = report.bytes_by_kind.rows().into_iter().filter(|(_, bytes)| *bytes > 0);
    rows.map(|(kind, bytes)| vec![left(kind), size(bytes)]).collect()
}

/// Returns the rows of the bundles, merging those that differ only in layer or row range.
fn bundles(report: &Report) -> Vec<Vec<Cell>> {
    let rows = report.bundles.iter().map(|bundle| {
        let cells = vec![left(count(bundle.n_tensors, "tensor"))];
        // Bundles of a row range have it in brackets after the name.
        let name = bundle.name.split('[').next().unwrap_or(&bundle.name);
        (layers::collapse(name), cells, bundle.bytes)
    });
    grouped(rows)
}

/// Returns the rows of the tensors, merging those that differ only in layer.
fn tensors(report: &Report) -> Vec<Vec<Cell>> {
    let rows = report.tensors.iter().map(|tensor| {
        let cells = vec![left(tensor.dtype.as_str()), left(format!("{:?}", tensor.shape))];
        (layers::collapse(&tensor.name), cells, tensor.bytes)
    });
    grouped(rows)
}

/// Merges equal rows, in order of first occurrence, and adds the bytes of each and their count.
fn grouped(rows: impl Iterator<Item = (String, Vec<Cell>, u64)>) -> Vec<Vec<Cell>> {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    let mut order = Vec::new();
    for row in rows {
        let count = counts.entry(row.clone()).or_default();
        if *count == 0 {
            order.push(row);
        }
        *count += 1;
    }
    let line = |row: (String, Vec<Cell>, u64)| {
        let count = counts[&row];
        let (name, cells, bytes) = row;
        let times = if count == 1 { String::new() } else { format!("× {count}") };
        [vec![left(name)], cells, vec![size(bytes), left(times)]].concat()
    };
    order.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_are_merged_in_order_of_first_occurrence() {
        let row = |name: &str| (name.to_owned(), vec![], 1024);
        let rows = grouped([row("b"), row("a"), row("b")].into_iter());
        let texts: Vec<Vec<_>> =
            rows.iter().map(|row| row.iter().map(|cell| cell.0.as_str()).collect()).collect();
        assert_eq!(texts, [["b", "1.00 KiB", "× 2"], ["a", "1.00 KiB", ""]]);
    }
}
