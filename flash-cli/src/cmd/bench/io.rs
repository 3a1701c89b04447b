//! `bench io`: how fast the disk gives the weights.

mod sustained;

use std::process::ExitCode;

use flash_io::{Catalog, IoMode, ReaderConfig};
use serde::Serialize;

use crate::args::BenchIoArgs;
use crate::output;
use sustained::Sustained;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    reader: Sustained,
}

pub(crate) fn run(args: &BenchIoArgs) -> anyhow::Result<ExitCode> {
    let catalog = Catalog::open(&args.model, IoMode::Direct)?;
    let reader = sustained::measure(&catalog, ReaderConfig::default())?;
    if args.json {
        output::print_json(&Report { reader })?;
    } else {
        output::print(&format!("reader: {:.2} GB/s\n", reader.bytes_per_s / 1e9))?;
    }
    Ok(ExitCode::SUCCESS)
}
