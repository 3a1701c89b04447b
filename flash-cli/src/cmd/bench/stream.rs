//! `bench stream`: how close decoding comes to the limit that disk and processor set.
//!
//! A token cannot take less than its compute, nor less than reading what is streamed for it. Both are measured in the same
//! run: compute without reads beside it, the disk before and after.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use flash_io::{Catalog, Tuning};
use flash_model::{Engine, EngineOptions, Model, Workload};
use flash_sched::{ByteRate, Limit};
use serde::Serialize;

use super::ceiling::Ceiling;
use crate::args::BenchStreamArgs;
use crate::options::EngineSettings;
use crate::session::open_model;
use crate::size::Bytes;
use crate::{budget, output, report};

/// Tokens before any is measured: pinned weights are read with the first.
const WARM_UP: usize = 2;
/// Tokens whose compute is measured without reads beside it.
const COMPUTE_TOKENS: usize = 3;
/// Any token of any vocabulary.
const FIRST_TOKEN: u32 = 1;

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    budget_bytes: u64,
    model_bytes: u64,
    pinned_bytes: u64,
    streamed_bytes_per_token: u64,
    /// Of a token, without reads beside it.
    compute_ms: f64,
    /// What the disk gave before and after, by itself.
    disk_bytes_per_s: [f64; 2],
    /// The least that a token can take.
    limit_ms: f64,
    /// What one took: the median, the least and the most.
    token_ms: f64,
    token_ms_min: f64,
    token_ms_max: f64,
    stall_ms: f64,
    limit_fraction: f64,
    peak_rss_bytes: u64,
}

pub(crate) fn run(args: BenchStreamArgs) -> anyhow::Result<ExitCode> {
    let BenchStreamArgs { engine, tokens, json } = args;
    ensure!(tokens > 0, "--tokens must be at least 1");
    let settings = EngineSettings::resolve(engine)?;
    let budget_bytes = budget::bytes(settings.ram);
    let tuning = settings.tuning();
    let mut disk = Ceiling::of(&Catalog::open(&settings.model_dir, tuning.mode)?, tuning.mode)?;

    // One bundle after the other: what a token takes without the waits is its compute alone.
    let compute = {
        let mut engine = load(&settings, tuning, budget_bytes, tokens, false)?;
        let decoded = decode(&mut engine, WARM_UP + COMPUTE_TOKENS)?;
        median(decoded[WARM_UP..].iter().map(|token| token.elapsed.saturating_sub(token.stall)))
    };
    let disk_before = disk.measure()?;
    let mut engine = load(&settings, tuning, budget_bytes, tokens, true)?;
    let decoded = decode(&mut engine, WARM_UP + tokens)?;
    let (decoded, stats) = (&decoded[WARM_UP..], engine.stats());
    drop(engine);
    let disk_bytes_per_s = [disk_before, disk.measure()?];

    let rate = ByteRate::new((disk_bytes_per_s[0] + disk_bytes_per_s[1]) / 2.0)?;
    let limit = Limit { compute, streamed_bytes: stats.pass_bytes, disk: Some(rate) };
    let token = median(decoded.iter().map(|token| token.elapsed));
    let report = Report {
        budget_bytes,
        model_bytes: stats.model_bytes,
        pinned_bytes: stats.pinned_bytes,
        streamed_bytes_per_token: stats.pass_bytes,
        compute_ms: report::ms(compute),
        disk_bytes_per_s,
        limit_ms: report::ms(limit.token_time()),
        token_ms: report::ms(token),
        token_ms_min: report::ms(decoded.iter().map(|token| token.elapsed).min().unwrap_or_default()),
        token_ms_max: report::ms(decoded.iter().map(|token| token.elapsed).max().unwrap_or_default()),
        stall_ms: report::ms(median(decoded.iter().map(|token| token.stall))),
        limit_fraction: limit.fraction(token),
        peak_rss_bytes: report::peak_bytes(),
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&table(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn load(
    settings: &EngineSettings,
    tuning: Tuning,
    budget_bytes: u64,
    tokens: usize,
    prefetch: bool,
) -> anyhow::Result<Engine> {
    let EngineSettings { model_dir, compute, read_rate, .. } = settings;
    let model: Model = open_model(model_dir, tuning.mode, *compute)?;
    let context_tokens = WARM_UP + tokens.max(COMPUTE_TOKENS);
    let workload = Workload { prompt_tokens: 1, context_tokens, prefetch: prefetch && settings.prefetch };
    let reader = tuning.into();
    Ok(model.load(&EngineOptions { budget_bytes, workload, reader, read_rate: *read_rate, events: None })?)
}

/// One token.
struct Decoded {
    elapsed: Duration,
    stall: Duration,
}

/// Decodes greedily, from a single token.
fn decode(engine: &mut Engine, n: usize) -> anyhow::Result<Vec<Decoded>> {
    let mut token = FIRST_TOKEN;
    let mut decoded = Vec::with_capacity(n);
    for _ in 0..n {
        let (begin, stall) = (Instant::now(), engine.stats().stall);
        let logits = engine.forward(&[token])?;
        decoded.push(Decoded { elapsed: begin.elapsed(), stall: engine.stats().stall - stall });
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        token = best.map_or(FIRST_TOKEN, |(idx, _)| idx as u32);
    }
    Ok(decoded)
}

fn median(durations: impl Iterator<Item = Duration>) -> Duration {
    let mut sorted: Vec<_> = durations.collect();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn table(report: &Report) -> String {
    let [before, after] = report.disk_bytes_per_s.map(|rate| rate / 1e9);
    format!(
        "budget          {}, of a model of {}; pinned {}, streamed {} a token\n\
         compute         {:.1} ms a token, without reads beside it\n\
         disk            {before:.2} GB/s before, {after:.2} GB/s after\n\
         limit           {:.1} ms a token\n\
         measured        {:.1} ms a token ({:.1}..{:.1}), of which {:.1} ms waiting for reads\n\
         limit fraction  {:.2}\n\
         peak memory     {}\n",
        Bytes(report.budget_bytes),
        Bytes(report.model_bytes),
        Bytes(report.pinned_bytes),
        Bytes(report.streamed_bytes_per_token),
        report.compute_ms,
        report.limit_ms,
        report.token_ms,
        report.token_ms_min,
        report.token_ms_max,
        report.stall_ms,
        report.limit_fraction,
        Bytes(report.peak_rss_bytes),
    )
}
