//! Measures `flash-cli` by the report of `run --json`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::confine::Confinement;
use super::instructions::Instructions;
use super::llama_batched_bench::PROMPT_TOKENS;
use super::model::Model;
use super::passes::Passes;
use crate::{models, run};

/// Words that, with a space before them, are each one token of the demo model's vocabulary.
const WORDS: [&str; 12] =
    ["The", "sun", "is", "hot", "and", "the", "sea", "is", "deep", "and", "cold", "today"];

/// A temperature at which all tokens are about equally likely.
const UNIFORM_TEMPERATURE: &str = "1000";

/// A built `flash-cli`.
pub struct Flash {
    program: PathBuf,
    instructions: Instructions,
}

/// The field of a row of `bench batch` that is used.
#[derive(Debug, Deserialize)]
struct Clients {
    tok_per_s: f64,
}

/// The fields of the report that are used.
#[derive(Debug, Deserialize)]
pub struct Report {
    prompt_tokens: usize,
    generated_tokens: usize,
    ttft_ms: f64,
    decode_tok_per_s: Option<f64>,
    pub model_bytes: u64,
}

impl Flash {
    pub fn build(instructions: Instructions) -> Result<Self> {
        eprintln!("Building flash-cli");
        Ok(Self { program: models::build_cli("release")?, instructions })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the version of the program, with the commit if the sources are in a git repository.
    pub fn version(&self) -> Result<String> {
        let version = run::output(Command::new(&self.program).arg("--version"))?;
        let commit = run::output(
            Command::new("git").current_dir(run::workspace()).args(["describe", "--always", "--dirty"]),
        );
        Ok(commit.map_or(version.clone(), |commit| format!("{version} ({commit})")) + ", release build")
    }

    /// Measures decoding, and returns tokens per second, without the first token, and the report. The prompt is the
    /// context, or one token if there is none.
    pub fn decode(
        &self,
        model: &Model,
        &Passes { n_tokens, depth, .. }: &Passes,
        confinement: &Confinement,
    ) -> Result<(f64, Report)> {
        let sampling: &[&str] =
            if model.is_mixture { &["--temp", UNIFORM_TEMPERATURE, "--seed", "0"] } else { &[] };
        let report = self.run(&model.mlx, depth.max(1), n_tokens + 1, sampling, confinement)?;
        if report.generated_tokens != n_tokens + 1 {
            bail!("flash-cli generated {} tokens, not {}", report.generated_tokens, n_tokens + 1);
        }
        Ok((report.decode_tok_per_s.context("flash-cli reports no rate")?, report))
    }

    /// Measures the prefill of a prompt of `n_tokens`, and returns tokens per second.
    pub fn prefill(&self, model: &Path, n_tokens: usize, confinement: &Confinement) -> Result<f64> {
        let report = self.run(model, n_tokens, 1, &[], confinement)?;
        Ok(1000.0 * n_tokens as f64 / report.ttft_ms)
    }

    /// Measures decoding for each number of clients, and returns tokens per second in sum.
    pub fn clients(
        &self,
        model: &Model,
        &Passes { n_tokens, ref clients, .. }: &Passes,
        confinement: &Confinement,
    ) -> Result<Vec<f64>> {
        if clients.is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<String> = clients.iter().map(usize::to_string).collect();
        let mut command = Command::new(&self.program);
        command.args(["bench", "batch", "--json", "--clients", &list.join(",")]);
        command.args(["--prompt-tokens", &PROMPT_TOKENS.to_string(), "--tokens", &n_tokens.to_string()]);
        command.arg("--model").arg(&model.mlx);
        self.limit(&mut command, confinement);
        let rows: Vec<Clients> =
            serde_json::from_str(&confinement.output(&command)?).context("the report of flash-cli")?;
        Ok(rows.into_iter().map(|row| row.tok_per_s).collect())
    }

    /// Adds the limits of instruction sets and memory.
    fn limit(&self, command: &mut Command, confinement: &Confinement) {
        if let Some(kernels) = self.instructions.kernels() {
            command.env("FLASH_KERNELS", kernels);
        }
        if let Some(memory) = confinement.memory {
            command.args(["--ram", &format!("{}B", memory.as_u64())]);
        }
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
        self.limit(&mut command, confinement);
        let output = confinement.output(&command)?;
        let report: Report = serde_json::from_str(&output).context("the report of flash-cli")?;
        if report.prompt_tokens != prompt {
            bail!("a prompt of {prompt} words is {} tokens", report.prompt_tokens);
        }
        Ok(report)
    }
}

/// Returns a text of `n_tokens` tokens.
pub fn text(n_tokens: usize) -> String {
    WORDS.iter().cycle().take(n_tokens).enumerate().fold(String::new(), |mut text, (i, word)| {
        let _ = write!(text, "{}{word}", if i == 0 { "" } else { " " });
        text
    })
}
