//! The soak: the demo model in half of its memory, on a disk that fails, for as long as someone wants.

use anyhow::Result;

use crate::{models, native, run};

pub fn run(seconds: u64) -> Result<()> {
    native::prepare(None)?;
    models::gguf()?;
    let model = models::demo(&models::build_cli("release")?)?;
    let mut soak = run::cargo();
    soak.args(["run", "--release", "--package", "flash-model", "--example", "soak", "--"]);
    run::check(soak.arg(model).arg(seconds.to_string()))
}
