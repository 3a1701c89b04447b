//! `bench prefill`: prefill compared with the limit set by disk and processor.
//!
//! A whole prompt is processed layer by layer, so a prompt of any length streams the weights once. Its time is at least
//! that of reading these weights, and at least that of its compute.

use std::process::ExitCode;

use anyhow::ensure;
use flash_sched::{ByteRate, Limit};
use serde::Serialize;

use super::trial::{LimitReport, Pass, Trial, mean, median, pass};
use crate::args::{BenchPrefillArgs, JsonArg};
use crate::options::EngineSettings;
use crate::size::Bytes;
use crate::{output, report};

/// Number of measured prompts; the median is reported.
const ROUNDS: usize = 3;

/// Number of distinct tokens in the prompt, smaller than any model's vocabulary.
const VOCABULARY: u32 = 61;

/// Report of `bench prefill`.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    limits: LimitReport,
    prompt_tokens: usize,
    /// Bytes of weights streamed for a prompt.
    streamed_bytes: u64,
    /// Bytes of weights streamed by one pass over the model.
    pass_bytes: u64,
    /// Time from the prompt to the logits of its last token.
    ttft_ms: f64,
}

pub(crate) fn run(args: BenchPrefillArgs) -> anyhow::Result<ExitCode> {
    let BenchPrefillArgs { engine, tokens, output: JsonArg { json } } = args;
    ensure!(tokens > 1, "--tokens must be at least 2");
    let mut trial = Trial::new(EngineSettings::resolve(engine)?)?;
    // Small token ids are valid in any vocabulary.
    let prompt: Vec<u32> = (0..tokens as u32).map(|n| n % VOCABULARY).collect();

    let compute = {
        let mut engine = trial.load(tokens, tokens, false)?;
        // The first prompt also reads the pinned weights, which counts as stall and not as compute.
        pass(&mut engine, &prompt)?.0.compute()
    };
    let mut engine = trial.load(tokens, tokens, true)?;
    pass(&mut engine, &prompt)?;
    let (mut passes, mut disk_bytes_per_s) = (Vec::new(), vec![trial.disk.measure()?]);
    for _ in 0..ROUNDS {
        engine.truncate(0)?;
        passes.push(pass(&mut engine, &prompt)?.0);
        disk_bytes_per_s.push(trial.disk.measure()?);
    }
    let stats = engine.stats();

    let disk = Some(ByteRate::new(mean(&disk_bytes_per_s))?);
    let limit = Limit { compute, streamed_bytes: stats.pass_bytes, disk };
    let ttft = median(passes.iter().map(|pass| pass.elapsed));
    let limits = LimitReport {
        budget_bytes: trial.budget_bytes,
        model_bytes: stats.model_bytes,
        pinned_bytes: stats.pinned_bytes,
        compute_ms: report::ms(compute),
        disk_bytes_per_s,
        limit_ms: report::ms(limit.token_time()),
        stall_ms: report::ms(median(passes.iter().map(|pass| pass.stall))),
        limit_fraction: limit.fraction(ttft),
        peak_rss_bytes: report::peak_bytes(),
    };
    let report = Report {
        limits,
        prompt_tokens: tokens,
        streamed_bytes: passes.iter().map(|pass: &Pass| pass.streamed_bytes).max().unwrap_or(0),
        pass_bytes: stats.pass_bytes,
        ttft_ms: report::ms(ttft),
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&table(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(report: &Report) -> String {
    let disk: Vec<_> =
        report.limits.disk_bytes_per_s.iter().map(|rate| format!("{:.2}", rate / 1e9)).collect();
    format!(
        "budget          {} for a model of {}; pinned {}\n\
         prompt          {} tokens; streamed {}, {:.2} passes over the streamed weights\n\
         compute         {:.0} ms without concurrent reads\n\
         disk            {} GB/s alone, before, between and after the prompts\n\
         limit           {:.0} ms\n\
         measured        {:.0} ms to the first logits, of which {:.0} ms stalled on reads\n\
         limit fraction  {:.2}\n\
         peak memory     {}\n",
        Bytes(report.limits.budget_bytes),
        Bytes(report.limits.model_bytes),
        Bytes(report.limits.pinned_bytes),
        report.prompt_tokens,
        Bytes(report.streamed_bytes),
        report.streamed_bytes as f64 / report.pass_bytes.max(1) as f64,
        report.limits.compute_ms,
        disk.join(", "),
        report.limits.limit_ms,
        report.ttft_ms,
        report.limits.stall_ms,
        report.limits.limit_fraction,
        Bytes(report.limits.peak_rss_bytes),
    )
}
