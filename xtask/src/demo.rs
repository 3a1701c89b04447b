//! The demo: one command from a bare machine to text from a model that does not fit its budget.

use std::process::Command;

use anyhow::Result;

use crate::{models, native, run};

/// Budget of the demo; the model takes 94 MiB.
const BUDGET: &str = "80MiB";

pub fn run(prompt: &str) -> Result<()> {
    native::prepare(None)?;
    models::gguf()?;
    eprintln!("Building flash-cli");
    let flash_cli = models::build_cli("demo")?;
    let model = models::demo(&flash_cli)?;
    eprintln!("\n$ flash-cli run --model {} --ram {BUDGET} --prompt {prompt:?}\n", model.display());
    run::check(
        Command::new(&flash_cli)
            .args(["run", "--summary", "--max-tokens", "40", "--ram", BUDGET, "--prompt", prompt, "--model"])
            .arg(&model),
    )
}
