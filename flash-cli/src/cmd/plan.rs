//! `plan`: what a budget pins and streams, and how fast a model would run in it.

mod chart;
mod report;
mod table;

use std::io;
use std::process::ExitCode;

use crate::budget;
use crate::options::PlanOptions;
use crate::output;
use crate::session::open_to_look;
use report::{Machine, Report};

/// Points of the curve in `--json`.
const JSON_POINTS: usize = 64;
/// Columns of text where nobody says how wide it may be.
const COLUMNS_DEFAULT: usize = 80;
/// More columns show nothing more.
const COLUMNS_MAX: usize = 120;

pub(crate) fn run(options: &PlanOptions) -> anyhow::Result<ExitCode> {
    let (model, _tokenizer) = open_to_look(&options.model)?;
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

/// The width of the terminal.
fn columns() -> usize {
    let size = terminal_size::terminal_size_of(io::stdout());
    size.map_or(COLUMNS_DEFAULT, |(width, _)| usize::from(width.0)).min(COLUMNS_MAX)
}
