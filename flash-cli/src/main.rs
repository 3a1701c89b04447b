//! Runs language models larger than memory.

mod args;
mod budget;
mod cache;
mod cmd;
mod elastic;
mod failure;
mod foreign;
mod gguf;
mod hub;
mod interrupt;
mod layers;
mod listener;
mod logging;
mod model;
mod modelfile;
mod options;
mod output;
mod progress;
mod prompt;
mod ram;
mod report;
mod sampling;
mod session;
mod size;
mod speed;
mod table;
mod template;
mod tf32;
mod transcript;
mod usage;

use std::process::ExitCode;

use clap::Parser;
use flash_model::memory;

fn main() -> ExitCode {
    tf32::disable();
    // Must run before the first large allocation.
    memory::bound_allocators();
    match args::Cli::try_parse() {
        Ok(cli) => cmd::run(cli.command).unwrap_or_else(|error| failure::report(&error)),
        Err(error) => failure::report_usage(&error),
    }
}
