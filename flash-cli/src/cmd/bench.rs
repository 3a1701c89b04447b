//! `bench`: performance measurements, one file each.

mod batch;
mod ceiling;
mod experts;
mod io;
mod kernels;
mod prefill;
mod stream;
mod trial;

use std::process::ExitCode;

use crate::args::{BenchArgs, BenchCommand};

pub(crate) fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        BenchCommand::Batch(args) => batch::run(args),
        BenchCommand::Experts(args) => experts::run(&args),
        BenchCommand::Io(args) => io::run(&args),
        BenchCommand::Kernels(args) => kernels::run(&args),
        BenchCommand::Prefill(args) => prefill::run(args),
        BenchCommand::Stream(args) => stream::run(args),
    }
}
