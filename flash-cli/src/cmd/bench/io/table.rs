//! Formats the report of `bench io` as text.

use std::fmt::Write;

use anstyle::Style;

use super::raw::{Cell, DEPTHS, READ_BYTES};
use super::report::{FioReport, Report};
use crate::size::Bytes;

const HEADING: Style = Style::new().bold();

/// Formats the report, with styles.
pub(super) fn render(report: &Report) -> String {
    let Report { shard, shard_bytes, cells, repeats, ceiling_bytes_per_s, reader, fio } = report;
    let mut lines = vec![format!("{}, {}", shard.display(), Bytes(*shard_bytes))];
    let mut modes: Vec<_> = cells.iter().map(|cell| cell.io).collect();
    modes.dedup();
    for mode in modes {
        lines.push(String::new());
        lines.push(format!("{HEADING}GB/s, {mode}{HEADING:#}: read size by queue depth"));
        lines.extend(grid(&cells.iter().filter(|cell| cell.io == mode).collect::<Vec<_>>()));
    }
    if *repeats {
        lines.push(String::new());
        lines.push(format!(
            "The file is too short: parts were read again after {}, and may have come from caches.",
            Bytes(*shard_bytes)
        ));
    }
    let sustained = &reader.sustained;
    lines.push(String::new());
    lines.push(format!("{HEADING}Sustained: whole bundles into slots, as a model is streamed{HEADING:#}"));
    lines.push(format!(
        "  {}, depth {}, reads of {}; {} bundles of {}",
        reader.io,
        reader.depth,
        Bytes(reader.chunk_bytes as u64),
        sustained.bundles,
        Bytes(sustained.bundle_bytes_mean),
    ));
    lines.push(rate("reader", sustained.bytes_per_s, sustained.core_share));
    lines.push(format!(
        "  {:.0} % of the fastest raw reads, {}",
        100.0 * reader.ceiling_fraction,
        gb_per_s(*ceiling_bytes_per_s)
    ));
    if let Some(FioReport { plain, huge_pages, reader_fraction }) = fio {
        lines.push(rate("fio", plain.bytes_per_s, plain.core_share));
        lines.push(rate("fio, huge pages", huge_pages.bytes_per_s, huge_pages.core_share));
        lines.push(format!("  reader: {reader_fraction:.2}× the faster fio"));
    }
    lines.join("\n") + "\n"
}

fn gb_per_s(bytes_per_s: f64) -> String {
    format!("{:.2} GB/s", bytes_per_s / 1e9)
}

fn rate(name: &str, bytes_per_s: f64, core_share: f64) -> String {
    format!("  {name:<18}{}, {:.1} % of a core", gb_per_s(bytes_per_s), 100.0 * core_share)
}

/// Formats rates as a grid with a row per read size and a column per depth.
fn grid(cells: &[&Cell]) -> Vec<String> {
    let mut heading = format!("{:>10}", "");
    for depth in DEPTHS {
        let _ = write!(heading, "{depth:>7}");
    }
    let mut lines = vec![heading];
    for read_bytes in READ_BYTES {
        let mut line = format!("{:>10}", Bytes(read_bytes as u64).to_string());
        for depth in DEPTHS {
            let cell = cells.iter().find(|cell| (cell.read_bytes, cell.depth) == (read_bytes, depth));
            let rate = cell.map_or(String::from("-"), |cell| format!("{:.2}", cell.bytes_per_s / 1e9));
            let _ = write!(line, "{rate:>7}");
        }
        lines.push(line);
    }
    lines
}
