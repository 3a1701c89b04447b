//! Development tasks: native MLX, the demo, archives, the tests, the goldens, comparisons.

mod cache;
mod check_arm;
mod check_macos;
mod compare;
mod demo;
mod dist;
mod goldens;
mod models;
mod native;
mod pictures;
mod readme;
mod run;
mod rust_src;
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
    about = "Development tasks of flash: setup, demo, archives, tests and comparisons"
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Prepare native MLX (on Linux; on macOS cargo builds it)
    Native {
        /// Also write the settings to this `.cargo` directory, for a workspace of your own
        #[arg(long, value_name = "DIR")]
        config_dir: Option<PathBuf>,
    },
    /// Download and convert the demo model, then generate the same text in memory for it and in half of that
    Demo {
        /// Prompt text
        #[arg(long, default_value = demo::PROMPT)]
        prompt: String,
    },
    /// Build archives that run without Rust: a wheel (`pip install`) and a tarball
    Dist(dist::DistArgs),
    /// Run everything that CI runs: format, lints, docs, all tests, the commands of the README
    Test,
    /// Run the tests of the kernels for AArch64 on an emulated processor
    CheckArm,
    /// Type-check and lint all crates for macOS, also on Linux
    CheckMacos,
    /// Regenerate the goldens with mlx-lm, in a separate Python environment
    Goldens,
    /// Run a model in a varying budget of half its size, on a disk with injected failures, and compare every bit with
    /// the model in memory
    Soak {
        /// Model directory [default: the demo model]
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
        /// Duration in seconds
        #[arg(long, value_name = "N", default_value = "1800")]
        seconds: u64,
    },
    /// Create a model of random weights, of any size, with the shapes of a configuration
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
        Task::Native { config_dir } => native::prepare(config_dir.as_deref()).map(drop),
        Task::Demo { prompt } => demo::run(&prompt),
        Task::Dist(args) => dist::run(&args),
        Task::Test => test::run(),
        Task::CheckArm => check_arm::run(),
        Task::CheckMacos => check_macos::run(),
        Task::Goldens => goldens::run(),
        Task::Soak { model, seconds } => soak::run(model, seconds),
        Task::Synth(args) => synth::run(&args),
        Task::Pictures => pictures::run(),
        Task::Compare { with } => compare::run(with),
    }
}
