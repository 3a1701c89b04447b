//! `inspect`: shows the tensors of a model and its memory requirements.

mod kind;
mod report;
mod table;

use std::process::ExitCode;

use crate::args::InspectArgs;
use crate::output;
use crate::session::open_headers;
use report::Report;

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let (model, _tokenizer) = open_headers(&args.model, args.tiling.rows())?;
    let report = Report::new(&model);
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&table::render(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
