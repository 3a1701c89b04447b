//! What the project does to itself: native MLX, the demo, the tests, the goldens, comparisons.

mod cache;
mod compare;
mod demo;
mod goldens;
mod models;
mod native;
mod pictures;
mod run;
mod soak;
mod synth;
mod test;
mod venv;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set-up, demo, tests and comparisons of flash"
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Prepare native MLX (Linux; on macOS cargo builds it by itself)
    Native {
        /// Also write the settings into this `.cargo` folder, for a workspace of your own
        #[arg(long, value_name = "DIR")]
        config_dir: Option<PathBuf>,
    },
    /// Fetch and convert the demo model, then generate text under a budget smaller than it
    Demo {
        /// What the model shall continue
        #[arg(long, default_value = "The capital of France is")]
        prompt: String,
    },
    /// Run everything that CI runs: format, lints, docs, all tests
    Test,
    /// Make the goldens anew with mlx-lm, in a Python environment of its own
    Goldens,
    /// Run a model in half of its memory, which comes and goes, on a disk that fails, and compare every bit with the model in
    /// memory
    Soak {
        /// Run this one [default: the demo model]
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
        /// Go on for this long
        #[arg(long, value_name = "N", default_value = "1800")]
        seconds: u64,
    },
    /// Write a model of random weights, of any size, in the shapes of a configuration
    Synth(synth::SynthArgs),
    /// Record the terminal sessions shown in the README
    Pictures,
    /// Compare flash-cli with another program on this machine
    Compare {
        #[command(subcommand)]
        with: compare::With,
    },
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::Native { config_dir } => native::prepare(config_dir.as_deref()),
        Task::Demo { prompt } => demo::run(&prompt),
        Task::Test => test::run(),
        Task::Goldens => goldens::run(),
        Task::Soak { model, seconds } => soak::run(model, seconds),
        Task::Synth(args) => synth::run(&args),
        Task::Pictures => pictures::run(),
        Task::Compare { with } => compare::run(with),
    }
}
