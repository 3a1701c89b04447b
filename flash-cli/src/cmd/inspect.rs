//! `inspect`: what a model is made of, and the memory it needs.

mod kind;
mod report;
mod table;

use std::process::ExitCode;

use flash_io::IoMode;
use flash_model::text::{TextError, Tokenizer};
use flash_model::{Compute, memory};

use crate::args::InspectArgs;
use crate::output;
use crate::session::open_model;
use report::Report;

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    // Only headers are read, so any way to read will do.
    let model = open_model(&args.model, IoMode::Pread, Compute::Auto)?;
    // The floor counts what the process has: a tokenizer as well, if `run` would have one.
    let _tokenizer = match Tokenizer::open(&args.model) {
        Ok(tokenizer) => Some(tokenizer),
        Err(TextError::NoTokenizer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    memory::trim();
    let report = Report::new(&model);
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&table::render(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
