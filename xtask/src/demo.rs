//! The demo: one command from a bare machine to text from a model, in enough memory for it and in half of that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{models, native, run};

/// The usual prompt.
pub const PROMPT: &str = "Why is the sky blue?";

/// A budget that holds all weights of the demo model, 94 MiB, and half of it.
const BUDGETS: [&str; 2] = ["160MiB", "80MiB"];

/// The fields of flash-cli's report that are used.
#[derive(Debug, Deserialize)]
struct Report {
    text: String,
    decode_tok_per_s: f64,
    streamed_bytes_per_token: u64,
    peak_rss_bytes: u64,
}

pub fn run(prompt: &str) -> Result<()> {
    let settings_changed = native::prepare(None)?;
    models::gguf()?;
    eprintln!("Building flash-cli");
    let flash_cli = models::build_cli("quick")?;
    let model = models::demo(&flash_cli)?;
    let mut reports = Vec::with_capacity(BUDGETS.len());
    for budget in BUDGETS {
        let report = generate(&flash_cli, &model, budget, prompt)?;
        println!("{}…\n", report.text.trim_end());
        eprintln!(
            "{:.1} tok/s, {} MiB read per token, peak memory {} MiB",
            report.decode_tok_per_s,
            report.streamed_bytes_per_token >> 20,
            report.peak_rss_bytes >> 20
        );
        reports.push(report);
    }
    let [all, half] = &reports[..] else { unreachable!("a report for each budget") };
    ensure!(all.text == half.text, "the texts differ, which is an error in flash: please report it");
    let percent = 100.0 * half.decode_tok_per_s / all.decode_tok_per_s;
    eprintln!("\nThe same text in half the memory, at {percent:.0} % of the speed.");
    if settings_changed {
        // They apply to this program, too: cargo would build it again at its next start.
        models::build("xtask", "xtask", "quick")?;
    }
    Ok(())
}

/// Generates text in a budget, and prints the command as a user would type it.
fn generate(flash_cli: &Path, model: &Path, budget: &str, prompt: &str) -> Result<Report> {
    let model_dir = model.display();
    eprintln!(
        "\n$ flash-cli run --chat --max-tokens 40 --ram {budget} --prompt {prompt:?} --model {model_dir}\n"
    );
    let mut command = Command::new(flash_cli);
    command.args(["run", "--chat", "--json", "--max-tokens", "40", "--ram", budget]);
    command.args(["--prompt", prompt, "--model"]);
    let report = run::output(command.arg(model))?;
    serde_json::from_str(&report).context("flash-cli printed no report")
}
