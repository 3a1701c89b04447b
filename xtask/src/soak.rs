//! Soak test: a model in a varying budget of half its size, on a disk with injected failures.

use std::path::PathBuf;

use anyhow::Result;

use crate::{models, native, run};

/// Runs the soak test for `seconds` with `model`, or with the demo model.
pub fn run(model: Option<PathBuf>, seconds: u64) -> Result<()> {
    native::prepare(None)?;
    let model = match model {
        Some(dir) => dir,
        None => models::demo(&models::build_cli("release")?)?,
    };
    let mut soak = run::cargo();
    soak.args(["run", "--release", "--package", "flash-model", "--example", "soak", "--"]);
    run::check(soak.arg(model).arg(seconds.to_string()))
}
