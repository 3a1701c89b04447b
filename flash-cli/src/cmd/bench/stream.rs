//! `bench stream`: how close decoding comes to the limit that disk and processor set.
//!
//! A token cannot take less than its compute, nor less than reading what is streamed for it. Both are measured in the same
//! run: compute without reads beside it, the disk by itself before, between and after the tokens.

use std::process::ExitCode;

use anyhow::ensure;
use flash_model::Engine;
use flash_sched::{ByteRate, Limit};
use serde::Serialize;

use super::trial::{Pass, Trial, mean, median, pass, quantile};
use crate::args::BenchStreamArgs;
use crate::options::EngineSettings;
use crate::output;
use crate::report::{self, ExpertsReport};
use crate::size::Bytes;

/// Tokens before any is measured: pinned weights are read with the first, and the controller learns with the second.
const WARM_UP: usize = 4;
/// The same for a mixture of experts, once all of its memory is ready: those that stay come with the tokens that take them, and
/// it is tried whether guesses pay.
const WARM_UP_EXPERTS: usize = 48;
/// Rounds of so many tokens in which that memory should be ready.
const WARM_UP_ROUNDS: usize = 32;
const ROUND_TOKENS: usize = 16;
/// Tokens whose compute is measured without reads beside it.
const COMPUTE_TOKENS: usize = 3;
/// The disk is measured before each of so many parts of the tokens, and after the last: its speed changes.
const ROUNDS: usize = 4;
/// A budget in which everything is in memory; it is no promise.
const IN_MEMORY_BYTES: u64 = 1 << 50;
/// Any token of any vocabulary.
const FIRST_TOKEN: u32 = 1;
/// Tokens are the same in every run.
const SEED: u64 = 1;

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
    /// What one took: the median, the least, what 99 of 100 are below, and the most.
    token_ms: f64,
    token_ms_min: f64,
    token_ms_p99: f64,
    token_ms_max: f64,
    stall_ms: f64,
    /// Of a token, while the disk was read from: what is missing, it idled.
    reading_ms: f64,
    /// What sealing pages took of a token: what 99 of 100 are below, and the most.
    sealing_ms_p99: f64,
    sealing_ms_max: f64,
    limit_fraction: f64,
    peak_rss_bytes: u64,
    /// Since the engine began.
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<ExpertsReport>,
}

pub(crate) fn run(args: BenchStreamArgs) -> anyhow::Result<ExitCode> {
    let BenchStreamArgs { engine, tokens, context, json } = args;
    ensure!(tokens > 0, "--tokens must be at least 1");
    let mut trial = Trial::new(EngineSettings::resolve(engine)?)?;
    let context_tokens = context + WARM_UP_EXPERTS + tokens.max(COMPUTE_TOKENS);

    let mut engine = trial.load(1, context_tokens, true)?;
    let mut made_up = MadeUpTokens::new();
    for _ in 0..WARM_UP_ROUNDS {
        if engine.stats().experts.is_none_or(|experts| experts.is_warm) {
            break;
        }
        decode(&mut engine, &mut made_up, ROUND_TOKENS)?;
        engine.truncate(0)?;
    }
    engine.make_up_context(context)?;
    let warm_up = if engine.stats().experts.is_some() { WARM_UP_EXPERTS } else { WARM_UP };
    decode(&mut engine, &mut made_up, warm_up)?;
    let (mut passes, mut disk_bytes_per_s) = (Vec::new(), vec![trial.disk.measure()?]);
    for round in 0..ROUNDS {
        let n = tokens * (round + 1) / ROUNDS - tokens * round / ROUNDS;
        passes.extend(decode(&mut engine, &mut made_up, n)?);
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
    let alone = decode(&mut engine, &mut MadeUpTokens::new(), WARM_UP + COMPUTE_TOKENS)?;
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
        token_ms_p99: report::ms(quantile(elapsed(), 0.99)),
        token_ms_max: report::ms(elapsed().max().unwrap_or_default()),
        stall_ms: report::ms(median(passes.iter().map(|pass| pass.stall))),
        reading_ms: report::ms(median(passes.iter().map(|pass| pass.reading))),
        sealing_ms_p99: report::ms(quantile(passes.iter().map(|pass| pass.sealing), 0.99)),
        sealing_ms_max: report::ms(passes.iter().map(|pass| pass.sealing).max().unwrap_or_default()),
        limit_fraction: limit.fraction(token),
        peak_rss_bytes,
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

/// Tokens that nobody chose: a model that chooses them itself, and has random weights, repeats one, and with it the experts
/// that it takes. For the same reason none is begun with twice.
struct MadeUpTokens {
    rng: fastrand::Rng,
    next: u32,
}

impl MadeUpTokens {
    fn new() -> Self {
        Self { rng: fastrand::Rng::with_seed(SEED), next: FIRST_TOKEN }
    }
}

/// Decodes so many of them.
fn decode(engine: &mut Engine, made_up: &mut MadeUpTokens, n: usize) -> anyhow::Result<Vec<Pass>> {
    let mut passes = Vec::with_capacity(n);
    for _ in 0..n {
        let (pass, logits) = pass(engine, &[made_up.next])?;
        made_up.next = made_up.rng.u32(..(logits.len() as u32).max(1));
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
         measured        {:.1} ms a token ({:.1}..{:.1}, 99 of 100 below {:.1}), of which {:.1} ms waiting for reads\n\
         reading         {:.1} ms of it\n\
         sealing pages   {:.1} ms of a token at most, 99 of 100 below {:.1}\n\
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
        report.token_ms_p99,
        report.stall_ms,
        report.reading_ms,
        report.sealing_ms_max,
        report.sealing_ms_p99,
        report.limit_fraction,
        Bytes(report.peak_rss_bytes),
    )
}
