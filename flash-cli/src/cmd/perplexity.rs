//! `perplexity`: how well a model predicts a text.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, bail};
use flash_model::Engine;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::interrupt::CtrlC;
use crate::options::PerplexityOptions;
use crate::session::{Loaded, Session};
use crate::{output, report};

/// A window needs a token to predict from and one to predict.
const WINDOW_TOKENS_MIN: usize = 2;

pub(crate) fn run(options: PerplexityOptions) -> anyhow::Result<ExitCode> {
    let PerplexityOptions { engine, file, window_tokens, json } = options;
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let session = Session::open(engine)?;
    let ids = session.tokenizer.encode(&text, false)?;
    drop(text);
    if ids.len() < WINDOW_TOKENS_MIN {
        bail!(
            "{}: {} tokens, at least {WINDOW_TOKENS_MIN} are needed to predict one",
            file.display(),
            ids.len()
        );
    }
    if let Some(max_tokens) = session.model.max_context_tokens().filter(|max| window_tokens > *max) {
        bail!("--ctx is {window_tokens}, but the model was trained for {max_tokens} tokens");
    }
    let workload = session.workload(window_tokens.min(ids.len()), 0)?;
    let Loaded { mut engine, io, watch: _watch, .. } = session.load(workload)?;

    let ctrl_c = CtrlC::new(engine.interrupt())?;
    let caught = ctrl_c.catch();
    let losses = losses(&mut engine, &ids, window_tokens)?;
    drop(caught);

    let loss = losses.iter().sum::<f64>() / losses.len() as f64;
    let stats = engine.stats();
    let report = Report {
        loss,
        perplexity: loss.exp(),
        n_tokens: losses.len(),
        budget_bytes: stats.budget_bytes,
        streamed_bytes: stats.streamed_bytes,
        peak_rss_bytes: report::peak_bytes(),
        io: io.name(),
    };
    if json {
        output::print_json(&report)?;
    } else {
        let Report { loss, perplexity, n_tokens, .. } = report;
        output::print(&format!("loss       {loss}\nperplexity {perplexity}\ntokens     {n_tokens}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The loss of every token but the first of each window.
fn losses(engine: &mut Engine, ids: &[u32], window_tokens: usize) -> anyhow::Result<Vec<f64>> {
    let windows = ids.chunks(window_tokens).filter(|window| window.len() >= WINDOW_TOKENS_MIN);
    let progress = ProgressBar::new(windows.clone().count() as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} windows, {eta} left")?);
    let mut losses = Vec::with_capacity(ids.len());
    for window in progress.wrap_iter(windows) {
        losses.extend(engine.losses(window)?);
    }
    progress.finish_and_clear();
    Ok(losses)
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    loss: f64,
    perplexity: f64,
    n_tokens: usize,
    budget_bytes: u64,
    streamed_bytes: u64,
    peak_rss_bytes: u64,
    io: &'static str,
}
