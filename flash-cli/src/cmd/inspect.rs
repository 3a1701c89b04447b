//! `inspect`: what a model is made of, and the memory it needs.

mod kind;
mod report;
mod table;

use std::process::ExitCode;

use crate::args::InspectArgs;
use crate::output;
use crate::session::open_to_look;
use report::Report;

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let (model, _tokenizer) = open_to_look(&args.model)?;
    let report = Report::new(&model);
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&table::render(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
