//! Runs `llama-bench` and parses its report.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::confine::Confinement;
use super::llama_cpp::LlamaCpp;
use super::passes::Passes;

/// The fields of a test in the report that are used.
#[derive(Debug, Deserialize)]
struct Test {
    n_prompt: usize,
    avg_ts: f64,
    model_size: u64,
}

/// Results of one round.
#[derive(Debug)]
pub struct Round {
    pub model_bytes: u64,
    /// Tokens per second.
    pub decode: f64,
    /// Tokens per second, in the order of the prompts.
    pub prefill: Vec<f64>,
}

/// Measures one decode, and one prefill of each length, each after its own warm-up.
pub fn run(
    llama_cpp: &LlamaCpp,
    gguf: &Path,
    Passes { n_tokens, depth, prompts, .. }: &Passes,
    confinement: &Confinement,
) -> Result<Round> {
    let mut command = Command::new(llama_cpp.bench());
    command.args(["--output", "json", "--repetitions", "1", "--n-gen", &n_tokens.to_string(), "--model"]);
    command.arg(gguf).args(["--n-depth", &depth.to_string()]).args([
        "--threads",
        &confinement.threads.to_string(),
        "--n-prompt",
    ]);
    // Length 0 disables the prefill test.
    let lengths = prompts.iter().map(usize::to_string).reduce(|list, length| format!("{list},{length}"));
    command.arg(lengths.as_deref().unwrap_or("0"));
    if let Some(memory) = confinement.memory {
        // The page cache counts against the limit of the process that filled it, which must be the measured one.
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(std::fs::File::open(gguf)?, 0, None, rustix::fs::Advice::DontNeed)?;
        if gguf.metadata()?.len() > memory.as_u64() {
            // Repacked weights would be a copy in memory that exceeds the limit.
            command.args(["--load-mode", "mmap", "--repack", "0"]);
        }
    }
    let output = confinement.output(&command)?;
    let tests: Vec<Test> = serde_json::from_str(&output).context("the report of llama-bench")?;
    let rate = |n_prompt: usize| {
        let test = tests.iter().find(|test| test.n_prompt == n_prompt);
        test.map(|test| test.avg_ts).with_context(|| format!("llama-bench reports no test of {n_prompt}"))
    };
    let first = tests.first().context("llama-bench reports no test")?;
    Ok(Round {
        model_bytes: first.model_size,
        decode: rate(0)?,
        prefill: prompts.iter().map(|&n_prompt| rate(n_prompt)).collect::<Result<_>>()?,
    })
}
