//! `flash-cli`, measured by what `run --json` reports.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Passes;
use super::confine::Confinement;
use super::model::Model;
use crate::{models, run};

/// Each of these words, with the space before it, is one token of the demo model's vocabulary.
const WORDS: [&str; 12] =
    ["The", "sun", "is", "hot", "and", "the", "sea", "is", "deep", "and", "cold", "today"];

/// Makes all tokens about as likely as each other.
const DRAWING_TEMPERATURE: &str = "1000";

pub struct Flash {
    program: PathBuf,
}

/// What we take of the report.
#[derive(Debug, Deserialize)]
pub struct Report {
    prompt_tokens: usize,
    generated_tokens: usize,
    ttft_ms: f64,
    decode_tok_per_s: Option<f64>,
    pub model_bytes: u64,
}

impl Flash {
    pub fn build() -> Result<Self> {
        eprintln!("Building flash-cli");
        Ok(Self { program: models::build_cli("release")? })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The version of the program, and of the sources if git knows.
    pub fn version(&self) -> Result<String> {
        let version = run::output(Command::new(&self.program).arg("--version"))?;
        let commit = run::output(
            Command::new("git").current_dir(run::workspace()).args(["describe", "--always", "--dirty"]),
        );
        Ok(commit.map_or(version.clone(), |commit| format!("{version} ({commit})")) + ", release build")
    }

    /// Tokens per second of those that follow the first one, and the report. Without a context there is one token before.
    pub fn decode(
        &self,
        model: &Model,
        &Passes { n_tokens, depth, .. }: &Passes,
        confinement: &Confinement,
    ) -> Result<(f64, Report)> {
        let draw: &[&str] = if model.is_mixture { &["--temp", DRAWING_TEMPERATURE] } else { &[] };
        let report = self.run(&model.mlx, depth.max(1), n_tokens + 1, draw, confinement)?;
        if report.generated_tokens != n_tokens + 1 {
            bail!("flash-cli generated {} tokens, not {}", report.generated_tokens, n_tokens + 1);
        }
        Ok((report.decode_tok_per_s.context("flash-cli reports no rate")?, report))
    }

    /// Tokens per second of a prompt of `n_tokens`.
    pub fn prefill(&self, model: &Path, n_tokens: usize, confinement: &Confinement) -> Result<f64> {
        let report = self.run(model, n_tokens, 1, &[], confinement)?;
        Ok(1000.0 * n_tokens as f64 / report.ttft_ms)
    }

    fn run(
        &self,
        model: &Path,
        prompt: usize,
        max: usize,
        options: &[&str],
        confinement: &Confinement,
    ) -> Result<Report> {
        let mut command = Command::new(&self.program);
        command.args(["run", "--json", "--warm-up", "--ignore-eos", "--prompt", &text(prompt)]).args(options);
        command.args(["--max-tokens", &max.to_string(), "--model"]).arg(model);
        if let Some(memory) = confinement.memory {
            command.args(["--ram", &format!("{}B", memory.as_u64())]);
        }
        let output = confinement.output(&command)?;
        let report: Report = serde_json::from_str(&output).context("the report of flash-cli")?;
        if report.prompt_tokens != prompt {
            bail!("a prompt of {prompt} words is {} tokens", report.prompt_tokens);
        }
        Ok(report)
    }
}

/// A text of so many tokens.
pub fn text(n_tokens: usize) -> String {
    WORDS.iter().cycle().take(n_tokens).enumerate().fold(String::new(), |mut text, (i, word)| {
        let _ = write!(text, "{}{word}", if i == 0 { "" } else { " " });
        text
    })
}
