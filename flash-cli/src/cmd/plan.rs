//! `plan`: predicts which bundles a budget pins, and the decoding speed.

mod chart;
mod report;
mod table;

use std::io;
use std::process::ExitCode;

use crate::budget;
use crate::options::PlanOptions;
use crate::output;
use crate::session::open_headers;
use report::{Machine, Report};

/// Number of points of the curve in `--json`.
const JSON_POINTS: usize = 64;
/// Width of the text if standard output is not a terminal.
const COLUMNS_DEFAULT: usize = 80;
/// Maximum width of the text.
const COLUMNS_MAX: usize = 120;

pub(crate) fn run(options: &PlanOptions) -> anyhow::Result<ExitCode> {
    let (model, _tokenizer) = open_headers(&options.model, options.tile_rows)?;
    let machine = Machine::new(&model, options);
    let budget_bytes = budget::bytes(options.ram);
    let columns = columns();
    let n_points = if options.json { JSON_POINTS } else { chart::n_points(columns) };
    let report = Report::new(&model, &machine, budget_bytes, n_points)?;
    if options.json {
        output::print_json(&report)?;
    } else {
        output::print(&table::render(&report, options, columns))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the width of the text: that of the terminal, within limits.
fn columns() -> usize {
    let size = terminal_size::terminal_size_of(io::stdout());
    size.map_or(COLUMNS_DEFAULT, |(width, _)| usize::from(width.0)).min(COLUMNS_MAX)
}
