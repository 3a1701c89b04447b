//! Runs `llama-batched-bench`, which decodes for several clients at once, and parses its report.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::confine::Confinement;
use super::llama_cpp::LlamaCpp;

/// Tokens of each client's prompt.
pub const PROMPT_TOKENS: usize = 32;

/// The fields of a line of the report that are used.
#[derive(Debug, Deserialize)]
struct Line {
    /// Clients.
    pl: usize,
    speed_tg: f64,
}

/// Measures decoding for each number of clients, and returns tokens per second in sum.
pub fn run(
    llama_cpp: &LlamaCpp,
    gguf: &Path,
    n_tokens: usize,
    clients: &[usize],
    confinement: &Confinement,
) -> Result<Vec<f64>> {
    let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let most = clients.iter().max().copied().unwrap_or(0);
    let threads = confinement.threads.to_string();
    let mut command = Command::new(llama_cpp.batched_bench());
    command.arg("--model").arg(gguf).args(["--output-format", "jsonl", "--threads", &threads]);
    command.args(["--threads-batch", &threads, "-npl", &list(clients)]);
    command.args(["-npp", &PROMPT_TOKENS.to_string(), "-ntg", &n_tokens.to_string()]);
    command.args(["--ctx-size", &(most * (PROMPT_TOKENS + n_tokens)).to_string()]);
    let needs_files =
        |memory: bytesize::ByteSize| Ok::<_, std::io::Error>(gguf.metadata()?.len() > memory.as_u64());
    if confinement.memory.map(needs_files).transpose()? == Some(true) {
        // Repacked weights would be a copy in memory that exceeds the limit.
        command.arg("--no-repack");
    }
    let output = confinement.output(&command)?;
    // Between lines of the log.
    let lines = output.lines().filter_map(|line| line.find('{').map(|start| &line[start..]));
    let lines: Vec<Line> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
    let speed = |n: &usize| {
        let line = lines.iter().find(|line| line.pl == *n);
        line.map(|line| line.speed_tg).with_context(|| format!("llama-batched-bench reports no {n} clients"))
    };
    clients.iter().map(speed).collect()
}
