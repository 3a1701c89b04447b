//! `bench stream`: decoding compared with the limit set by disk and processor.
//!
//! The time per token is at least its compute time, and at least the time to read its streamed weights. Both are
//! measured in the same run: compute without concurrent reads, and the disk alone before, between and after the tokens.

use std::process::ExitCode;

use anyhow::ensure;
use flash_model::Engine;
use flash_sched::{ByteRate, Limit};
use serde::Serialize;

use super::trial::{LimitReport, Pass, Trial, mean, median, pass, quantile};
use crate::args::{BenchStreamArgs, JsonArg};
use crate::options::EngineSettings;
use crate::output;
use crate::report::{self, ExpertsReport};
use crate::size::Bytes;

/// Warm-up tokens of a dense model: the first reads pinned weights, and the controller adapts during the second.
const WARM_UP: usize = 4;
/// Warm-up tokens of a mixture of experts after its cache is full: the cache settles, and lookahead is evaluated.
const WARM_UP_EXPERTS: usize = 48;
/// Maximum rounds of [`ROUND_TOKENS`] tokens to fill the expert cache.
const WARM_UP_ROUNDS: usize = 32;
const ROUND_TOKENS: usize = 16;
/// Tokens whose compute time is measured without concurrent reads.
const COMPUTE_TOKENS: usize = 3;
/// Rounds into which the tokens are divided. The disk is measured before each and after the last, because its speed
/// varies.
const ROUNDS: usize = 4;
/// A budget that holds all weights of any model. It is only a limit: no memory is reserved.
const IN_MEMORY_BYTES: u64 = 1 << 50;
/// A token id that is valid in any vocabulary.
const FIRST_TOKEN: u32 = 1;
/// Seed of the random tokens, so that every run decodes the same ones.
const SEED: u64 = 1;

/// Report of `bench stream`.
#[derive(Debug, Serialize)]
struct Report {
    streamed_bytes_per_token: u64,
    /// Context length before decoding.
    context_tokens: usize,
    /// Bytes of KV pages read per token.
    kv_bytes_per_token: u64,
    /// Median time per token.
    token_ms: f64,
    token_ms_min: f64,
    token_ms_p99: f64,
    token_ms_max: f64,
    /// Median time per token during which the disk was busy.
    reading_ms: f64,
    /// Time per token spent sealing pages.
    sealing_ms_p99: f64,
    sealing_ms_max: f64,
    /// Expert cache statistics since the engine was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<ExpertsReport>,
    #[serde(flatten)]
    limits: LimitReport,
}

pub(crate) fn run(args: BenchStreamArgs) -> anyhow::Result<ExitCode> {
    let BenchStreamArgs { engine, tokens, context, output: JsonArg { json } } = args;
    ensure!(tokens > 0, "--tokens must be at least 1");
    let mut trial = Trial::new(EngineSettings::resolve(engine)?)?;
    let context_tokens = context + WARM_UP_EXPERTS + ROUNDS + tokens.max(COMPUTE_TOKENS);

    let mut engine = trial.load(1, context_tokens, true)?;
    let mut random_tokens = RandomTokens::new();
    for _ in 0..WARM_UP_ROUNDS {
        if engine.stats().experts.is_none_or(|experts| experts.is_warm) {
            break;
        }
        decode(&mut engine, &mut random_tokens, ROUND_TOKENS)?;
        engine.truncate(0)?;
    }
    engine.fill_synthetic(context)?;
    let warm_up = if engine.stats().experts.is_some() { WARM_UP_EXPERTS } else { WARM_UP };
    decode(&mut engine, &mut random_tokens, warm_up)?;
    let (mut passes, mut disk_bytes_per_s) = (Vec::new(), vec![trial.disk.measure()?]);
    for round in 0..ROUNDS {
        let n = tokens * (round + 1) / ROUNDS - tokens * round / ROUNDS;
        // Not counted, because its first bundles were read while the disk was measured.
        decode(&mut engine, &mut random_tokens, 1)?;
        passes.extend(decode(&mut engine, &mut random_tokens, n)?);
        disk_bytes_per_s.push(trial.disk.measure()?);
    }
    let (stats, peak_rss_bytes) = (engine.stats(), report::peak_bytes());
    drop(engine);
    // Pages are always read ahead, so with a context, compute is measured with all weights and pages in memory. That
    // exceeds the budget, so it comes last.
    let mut engine = match context {
        0 => trial.load(1, context_tokens, false)?,
        _ => trial.load_in(IN_MEMORY_BYTES, 1, context_tokens, true)?,
    };
    engine.fill_synthetic(context)?;
    let undisturbed = decode(&mut engine, &mut RandomTokens::new(), WARM_UP + COMPUTE_TOKENS)?;
    let compute = median(undisturbed[WARM_UP..].iter().map(Pass::compute));

    let disk = Some(ByteRate::new(mean(&disk_bytes_per_s))?);
    let kv_bytes = passes.iter().map(|pass| pass.kv_bytes).max().unwrap_or(0);
    // Only experts make this differ between tokens.
    let read_bytes = passes.iter().map(|pass| pass.streamed_bytes - pass.kv_bytes).sum::<u64>();
    let weights_bytes = read_bytes / passes.len().max(1) as u64;
    let limit = Limit { compute, streamed_bytes: weights_bytes + kv_bytes, disk };
    let elapsed = || passes.iter().map(|pass| pass.elapsed);
    let token = median(elapsed());
    let limits = LimitReport {
        budget_bytes: trial.budget_bytes,
        model_bytes: stats.model_bytes,
        pinned_bytes: stats.pinned_bytes,
        compute_ms: report::ms(compute),
        disk_bytes_per_s,
        limit_ms: report::ms(limit.token_time()),
        stall_ms: report::ms(median(passes.iter().map(|pass| pass.stall))),
        limit_fraction: limit.fraction(token),
        peak_rss_bytes,
    };
    let report = Report {
        limits,
        streamed_bytes_per_token: weights_bytes,
        context_tokens: context,
        kv_bytes_per_token: kv_bytes,
        token_ms: report::ms(token),
        token_ms_min: report::ms(elapsed().min().unwrap_or_default()),
        token_ms_p99: report::ms(quantile(elapsed(), 0.99)),
        token_ms_max: report::ms(elapsed().max().unwrap_or_default()),
        reading_ms: report::ms(median(passes.iter().map(|pass| pass.reading))),
        sealing_ms_p99: report::ms(quantile(passes.iter().map(|pass| pass.sealing), 0.99)),
        sealing_ms_max: report::ms(passes.iter().map(|pass| pass.sealing).max().unwrap_or_default()),
        experts: stats.experts.map(ExpertsReport::from),
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&table(&report))?;
        if let Some(experts) = &stats.experts {
            output::print(&format!("experts         {}\n", report::experts(experts)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A stream of random tokens.
///
/// Greedy decoding with random weights repeats one token, and with it the same experts. For the same reason the stream
/// continues across rounds instead of starting over.
struct RandomTokens {
    rng: fastrand::Rng,
    next: u32,
}

impl RandomTokens {
    fn new() -> Self {
        Self { rng: fastrand::Rng::with_seed(SEED), next: FIRST_TOKEN }
    }
}

/// Decodes `n` random tokens.
fn decode(engine: &mut Engine, tokens: &mut RandomTokens, n: usize) -> anyhow::Result<Vec<Pass>> {
    let mut passes = Vec::with_capacity(n);
    for _ in 0..n {
        let (pass, logits) = pass(engine, &[tokens.next])?;
        tokens.next = tokens.rng.u32(..(logits.len() as u32).max(1));
        passes.push(pass);
    }
    Ok(passes)
}

fn table(report: &Report) -> String {
    let disk: Vec<_> =
        report.limits.disk_bytes_per_s.iter().map(|rate| format!("{:.2}", rate / 1e9)).collect();
    format!(
        "budget          {} for a model of {}; pinned {}, streamed {} per token\n\
         context         {} tokens, {} of pages read per token\n\
         compute         {:.1} ms per token without concurrent reads\n\
         disk            {} GB/s alone, before, between and after the tokens\n\
         limit           {:.1} ms per token\n\
         measured        {:.1} ms per token ({:.1}..{:.1}, p99 {:.1}), of which {:.1} ms stalled on reads\n\
         reading         {:.1} ms per token\n\
         sealing pages   {:.1} ms per token at most, p99 {:.1}\n\
         limit fraction  {:.2}\n\
         peak memory     {}\n",
        Bytes(report.limits.budget_bytes),
        Bytes(report.limits.model_bytes),
        Bytes(report.limits.pinned_bytes),
        Bytes(report.streamed_bytes_per_token),
        report.context_tokens,
        Bytes(report.kv_bytes_per_token),
        report.limits.compute_ms,
        disk.join(", "),
        report.limits.limit_ms,
        report.token_ms,
        report.token_ms_min,
        report.token_ms_max,
        report.token_ms_p99,
        report.limits.stall_ms,
        report.reading_ms,
        report.sealing_ms_max,
        report.sealing_ms_p99,
        report.limits.limit_fraction,
        Bytes(report.limits.peak_rss_bytes),
    )
}
