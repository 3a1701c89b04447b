//! `perplexity`: measures the perplexity of a text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use flash_model::Engine;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::interrupt::Signals;
use crate::options::PerplexityOptions;
use crate::session::{Loaded, Session};
use crate::{output, prompt, report};

/// Minimum length of a window: a token to predict from, and one to predict.
const WINDOW_TOKENS_MIN: usize = 2;

/// Why the perplexity cannot be computed.
#[derive(Debug, thiserror::Error)]
enum PerplexityError {
    #[error(
        "{file}: the loss of token {token_idx} is {loss}: a weight, or a value computed from the weights, is not finite"
    )]
    NotFinite { file: PathBuf, token_idx: usize, loss: f64 },
    #[error("{file}: the perplexity of the mean loss {loss} overflows a 64-bit float")]
    TooLarge { file: PathBuf, loss: f64 },
}

pub(crate) fn run(options: PerplexityOptions) -> anyhow::Result<ExitCode> {
    let PerplexityOptions { engine, file, window_tokens, json } = options;
    let text = prompt::read(&file)?;
    let session = Session::open(engine)?;
    let ids = session.tokenizer.encode(&text, false)?;
    drop(text);
    if ids.len() < WINDOW_TOKENS_MIN {
        bail!("{}: {} tokens, at least {WINDOW_TOKENS_MIN} are needed", file.display(), ids.len());
    }
    let mut workload = session.workload(window_tokens.min(ids.len()), 0);
    workload.kv.is_append_only = true;
    let Loaded { mut engine, io, watcher: _watcher, .. } = session.load(workload)?;

    let signals = Signals::new(engine.interrupt())?;
    let guard = signals.guard();
    let losses = losses(&mut engine, &ids, window_tokens)?;
    drop(guard);

    let loss = mean(&file, &losses, window_tokens)?;
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

/// Returns the mean loss, checked to be finite and to have a finite perplexity.
fn mean(file: &Path, losses: &[f64], window_tokens: usize) -> Result<f64, PerplexityError> {
    if let Some((nth, loss)) = losses.iter().enumerate().find(|(_, loss)| !loss.is_finite()) {
        // The first token of each window has no loss.
        let predicted = window_tokens - 1;
        let token_idx = nth / predicted * window_tokens + nth % predicted + 1;
        return Err(PerplexityError::NotFinite { file: file.to_owned(), token_idx, loss: *loss });
    }
    let loss = losses.iter().sum::<f64>() / losses.len() as f64;
    if loss.exp().is_finite() {
        Ok(loss)
    } else {
        Err(PerplexityError::TooLarge { file: file.to_owned(), loss })
    }
}

/// Computes the loss of every token except the first of each window.
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

/// Report of `perplexity`, as printed by `--json`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_is_not_finite_is_named_with_its_token() {
        let mean = |losses: &[f64]| mean(Path::new("text"), losses, 4).map_err(|error| error.to_string());
        assert_eq!(mean(&[1.0, 3.0]), Ok(2.0));
        // Tokens 0 and 4 start windows of four.
        for (loss, name) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
            let error = mean(&[1.0, 1.0, 1.0, 1.0, loss, 1.0]).unwrap_err();
            assert!(error.starts_with(&format!("text: the loss of token 6 is {name}: ")), "{error}");
        }
        assert!(mean(&[1000.0]).unwrap_err().contains("the perplexity of the mean loss 1000 overflows"));
    }
}
