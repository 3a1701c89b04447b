//! The soak: a model in half of its memory, which comes and goes, on a disk that fails, for as long as someone wants.

use std::path::PathBuf;

use anyhow::Result;

use crate::{models, native, run};

/// Of `model`, or of the demo model.
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
