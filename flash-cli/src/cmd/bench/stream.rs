//! `bench stream`: how close decoding comes to the limit that disk and processor set.
//!
//! A token cannot take less than its compute, nor less than reading what is streamed for it. Both are measured in the same
//! run: compute without reads beside it, the disk by itself before, between and after the tokens.

use std::process::ExitCode;

use anyhow::ensure;
use flash_model::Engine;
use flash_sched::{ByteRate, Limit};
use serde::Serialize;

use super::trial::{Pass, Trial, mean, median, pass};
use crate::args::BenchStreamArgs;
use crate::options::EngineSettings;
use crate::size::Bytes;
use crate::{output, report};

/// Tokens before any is measured: pinned weights are read with the first, and the controller learns with the second.
const WARM_UP: usize = 4;
/// Tokens whose compute is measured without reads beside it.
const COMPUTE_TOKENS: usize = 3;
/// The disk is measured before each of so many parts of the tokens, and after the last: its speed changes.
const ROUNDS: usize = 4;
/// A budget in which everything is in memory; it is no promise.
const IN_MEMORY_BYTES: u64 = 1 << 50;
/// Any token of any vocabulary.
const FIRST_TOKEN: u32 = 1;

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    budget_bytes: u64,
    model_bytes: u64,
    pinned_bytes: u64,
    streamed_bytes_per_token: u64,
    /// Tokens before those that are decoded.
    context_tokens: usize,
    /// Pages of keys and values, in reads for each token.
    kv_bytes_per_token: u64,
    /// Of a token, without reads beside it.
    compute_ms: f64,
    /// What the disk gave by itself, each time.
    disk_bytes_per_s: Vec<f64>,
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
    let BenchStreamArgs { engine, tokens, context, json } = args;
    ensure!(tokens > 0, "--tokens must be at least 1");
    let mut trial = Trial::new(EngineSettings::resolve(engine)?)?;
    let context_tokens = context + WARM_UP + tokens.max(COMPUTE_TOKENS);

    let mut engine = trial.load(1, context_tokens, true)?;
    engine.make_up_context(context)?;
    let mut token = FIRST_TOKEN;
    decode(&mut engine, &mut token, WARM_UP)?;
    let (mut passes, mut disk_bytes_per_s) = (Vec::new(), vec![trial.disk.measure()?]);
    for round in 0..ROUNDS {
        let n = tokens * (round + 1) / ROUNDS - tokens * round / ROUNDS;
        passes.extend(decode(&mut engine, &mut token, n)?);
        disk_bytes_per_s.push(trial.disk.measure()?);
    }
    let (stats, peak_rss_bytes) = (engine.stats(), report::peak_bytes());
    drop(engine);
    // Last, because it takes more memory than the budget behind a context: pages are read ahead in any case, so compute is
    // measured with all of them in memory.
    let mut engine = match context {
        0 => trial.load(1, context_tokens, false)?,
        _ => trial.load_in(IN_MEMORY_BYTES, 1, context_tokens, true)?,
    };
    engine.make_up_context(context)?;
    let alone = decode(&mut engine, &mut { FIRST_TOKEN }, WARM_UP + COMPUTE_TOKENS)?;
    let compute = median(alone[WARM_UP..].iter().map(Pass::compute));

    let disk = Some(ByteRate::new(mean(&disk_bytes_per_s))?);
    let kv_bytes = passes.iter().map(|pass| pass.kv_bytes).max().unwrap_or(0);
    // The same for each token, but for experts.
    let read_bytes = passes.iter().map(|pass| pass.streamed_bytes - pass.kv_bytes).sum::<u64>();
    let weights_bytes = read_bytes / passes.len().max(1) as u64;
    let limit = Limit { compute, streamed_bytes: weights_bytes + kv_bytes, disk };
    let elapsed = || passes.iter().map(|pass| pass.elapsed);
    let token = median(elapsed());
    let report = Report {
        budget_bytes: trial.budget_bytes,
        model_bytes: stats.model_bytes,
        pinned_bytes: stats.pinned_bytes,
        streamed_bytes_per_token: weights_bytes,
        context_tokens: context,
        kv_bytes_per_token: kv_bytes,
        compute_ms: report::ms(compute),
        disk_bytes_per_s,
        limit_ms: report::ms(limit.token_time()),
        token_ms: report::ms(token),
        token_ms_min: report::ms(elapsed().min().unwrap_or_default()),
        token_ms_max: report::ms(elapsed().max().unwrap_or_default()),
        stall_ms: report::ms(median(passes.iter().map(|pass| pass.stall))),
        limit_fraction: limit.fraction(token),
        peak_rss_bytes,
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&table(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Decodes made-up tokens, behind `token`: a model that chooses them itself, and has random weights, repeats one, and with it
/// the experts that it takes.
fn decode(engine: &mut Engine, token: &mut u32, n: usize) -> anyhow::Result<Vec<Pass>> {
    let mut passes = Vec::with_capacity(n);
    for _ in 0..n {
        let (pass, logits) = pass(engine, &[*token])?;
        *token = token.wrapping_mul(747_796_405).wrapping_add(2_891_336_453) % logits.len().max(1) as u32;
        passes.push(pass);
    }
    Ok(passes)
}

fn table(report: &Report) -> String {
    let disk: Vec<_> = report.disk_bytes_per_s.iter().map(|rate| format!("{:.2}", rate / 1e9)).collect();
    format!(
        "budget          {}, of a model of {}; pinned {}, streamed {} a token\n\
         context         {} tokens, of which {} are read for each token\n\
         compute         {:.1} ms a token, without reads beside it\n\
         disk            {} GB/s by itself, before, between and after the tokens\n\
         limit           {:.1} ms a token\n\
         measured        {:.1} ms a token ({:.1}..{:.1}), of which {:.1} ms waiting for reads\n\
         limit fraction  {:.2}\n\
         peak memory     {}\n",
        Bytes(report.budget_bytes),
        Bytes(report.model_bytes),
        Bytes(report.pinned_bytes),
        Bytes(report.streamed_bytes_per_token),
        report.context_tokens,
        Bytes(report.kv_bytes_per_token),
        report.compute_ms,
        disk.join(", "),
        report.limit_ms,
        report.token_ms,
        report.token_ms_min,
        report.token_ms_max,
        report.stall_ms,
        report.limit_fraction,
        Bytes(report.peak_rss_bytes),
    )
}
