//! `bench batch`: decoding for several clients at once, one pass over the weights for the next token of each.
//!
//! A pass over streamed weights takes as long for some rows as for one, so tokens of more clients cost nothing until
//! arithmetic is the limit.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use flash_model::{BatchOptions, Context, Engine, Logits, Segment, memory};
use flash_sched::{ByteRate, Limit, PassEstimate, PassLimits, rows};
use serde::Serialize;

use super::trial::{Trial, mean, median};
use crate::args::{BenchBatchArgs, JsonArg};
use crate::options::EngineSettings;
use crate::output;
use crate::report;
use crate::size::Bytes;
use crate::table::{Cell, left, section, size};

/// Passes before the measured ones: the first read pinned weights, and the slots of experts fill.
const WARM_UP: usize = 4;
/// Maximum passes until the expert cache of a mixture is full.
const WARM_UP_EXPERTS: usize = 64;
/// Passes whose compute time is measured without concurrent reads.
const COMPUTE_PASSES: usize = 3;
/// Seed of the random tokens, so that every run decodes the same ones.
const SEED: u64 = 1;
/// Width of the longest bar of the chart, in characters.
const BAR: usize = 24;

/// Speed with a number of clients.
#[derive(Debug, Serialize)]
struct Row {
    clients: usize,
    /// Tokens of all clients together.
    tok_per_s: f64,
    tok_per_s_each: f64,
    streamed_bytes_per_token: u64,
    /// Median time of a pass, a token of each client.
    pass_ms: f64,
    /// Compute time of a pass without concurrent reads.
    compute_ms: f64,
    /// The larger of compute time and time to read the streamed weights, divided by the time of a pass.
    limit_fraction: f64,
    /// Time until the first token of one more client whose prompt runs in parts with the tokens of the others, and if it ran
    /// alone.
    newcomer_ttft_ms: f64,
    newcomer_alone_ms: f64,
    /// Rate of the others' tokens meanwhile, as a fraction of their rate before.
    others_fraction: f64,
    peak_rss_bytes: u64,
    budget_bytes: u64,
}

pub(crate) fn run(args: BenchBatchArgs) -> anyhow::Result<ExitCode> {
    let BenchBatchArgs { engine, clients, prompt_tokens, tokens, output: JsonArg { json } } = args;
    ensure!(tokens > 0, "--tokens must be at least 1");
    ensure!(prompt_tokens > 0, "--prompt-tokens must be at least 1");
    ensure!(clients.iter().all(|n| *n > 0), "--clients must be at least 1");
    let mut trial = Trial::new(EngineSettings::resolve(engine)?)?;
    let mut rows = Vec::new();
    for n_clients in clients {
        rows.push(measure(&mut trial, n_clients, prompt_tokens, tokens)?);
    }
    if json {
        output::print_json(&rows)?;
    } else {
        output::print(&section(
            "Tokens of several clients, a pass over the weights for each",
            &table(&rows),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(
    trial: &mut Trial,
    n_clients: usize,
    prompt_tokens: usize,
    n_passes: usize,
) -> anyhow::Result<Row> {
    memory::reset_peak();
    let mut clients = Clients::new(trial, n_clients, prompt_tokens, n_passes, true)?;
    clients.warm_up()?;
    let mut disk_bytes_per_s = vec![trial.disk.measure()?];
    // Not counted, because its first bundles were read while the disk was measured.
    clients.decode()?;
    let read_before = clients.read_bytes();
    let passes = (0..n_passes).map(|_| clients.decode()).collect::<anyhow::Result<Vec<_>>>()?;
    let read_bytes = (clients.read_bytes() - read_before) / n_passes as u64;
    disk_bytes_per_s.push(trial.disk.measure()?);
    let newcomer = clients.join(prompt_tokens, ByteRate::new(mean(&disk_bytes_per_s))?)?;
    let peak_rss_bytes = report::peak_bytes();
    drop(clients);

    // Without reading ahead, passes never read while they compute.
    let mut undisturbed = Clients::new(trial, n_clients, prompt_tokens, COMPUTE_PASSES, false)?;
    undisturbed.warm_up()?;
    let compute = (0..COMPUTE_PASSES).map(|_| {
        let before = undisturbed.engine.stats().stall;
        let pass = undisturbed.decode()?;
        Ok(pass.saturating_sub(undisturbed.engine.stats().stall - before))
    });
    let compute = median(compute.collect::<anyhow::Result<Vec<_>>>()?.into_iter());

    let disk = Some(ByteRate::new(mean(&disk_bytes_per_s))?);
    let limit = Limit { compute, streamed_bytes: read_bytes, disk };
    let pass = median(passes.into_iter());
    let tok_per_s = n_clients as f64 / pass.as_secs_f64();
    Ok(Row {
        clients: n_clients,
        tok_per_s,
        tok_per_s_each: tok_per_s / n_clients as f64,
        streamed_bytes_per_token: read_bytes / n_clients as u64,
        pass_ms: report::ms(pass),
        compute_ms: report::ms(compute),
        limit_fraction: limit.fraction(pass),
        newcomer_ttft_ms: report::ms(newcomer.first_token),
        newcomer_alone_ms: report::ms(newcomer.alone),
        others_fraction: pass.as_secs_f64() / newcomer.pass.as_secs_f64(),
        peak_rss_bytes,
        budget_bytes: trial.budget_bytes,
    })
}

/// Clients that decode random tokens: greedy decoding with random weights repeats one token, and with it the same
/// experts.
struct Clients {
    contexts: Vec<Context>,
    engine: Engine,
    logits: Logits,
    rng: fastrand::Rng,
    vocab_size: u32,
}

/// Times of one more client that joins the others, and of their passes.
#[derive(Debug)]
struct Newcomer {
    /// Time to its first token, if nobody else is there.
    alone: Duration,
    /// Time to its first token beside the others.
    first_token: Duration,
    /// Mean time of the passes meanwhile.
    pass: Duration,
}

impl Clients {
    /// Loads an engine, and runs a random prompt of each client.
    fn new(
        trial: &Trial,
        n_clients: usize,
        prompt_tokens: usize,
        n_passes: usize,
        prefetch: bool,
    ) -> anyhow::Result<Self> {
        let context_tokens = prompt_tokens + WARM_UP_EXPERTS + n_passes + 2;
        // All prompts run in one pass.
        let workload = trial.workload(n_clients * prompt_tokens, context_tokens, prefetch);
        let engine = trial.load_workload(workload.with_contexts(n_clients + 1))?;
        let contexts = (0..n_clients).map(|_| engine.new_context()).collect();
        let rng = fastrand::Rng::with_seed(SEED);
        // One token is valid in any vocabulary; the first pass tells how many are.
        let mut clients = Self { contexts, engine, logits: Logits::default(), rng, vocab_size: 1 };
        clients.decode()?;
        clients.vocab_size = clients.logits.of(0).next().map_or(1, <[f32]>::len) as u32;
        clients.pass(prompt_tokens)?;
        Ok(clients)
    }

    /// Runs passes until they take as long as later ones.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        for pass_idx in 0..WARM_UP_EXPERTS {
            let is_warm = self.engine.stats().experts.is_none_or(|experts| experts.is_warm);
            if pass_idx >= WARM_UP && is_warm {
                break;
            }
            self.decode()?;
        }
        Ok(())
    }

    /// Decodes a token of each client, and returns the time.
    fn decode(&mut self) -> anyhow::Result<Duration> {
        self.pass(1)
    }

    fn pass(&mut self, n_tokens: usize) -> anyhow::Result<Duration> {
        self.pass_with(n_tokens, None)
    }

    /// Runs `n_tokens` random tokens of each client, and a part of a newcomer's prompt.
    fn pass_with(
        &mut self,
        n_tokens: usize,
        newcomer: Option<(&mut Context, &[u32])>,
    ) -> anyhow::Result<Duration> {
        let Self { contexts, engine, logits, rng, vocab_size } = self;
        let tokens: Vec<u32> = (0..n_tokens * contexts.len()).map(|_| rng.u32(..*vocab_size)).collect();
        let segments = contexts.iter_mut().zip(tokens.chunks(n_tokens.max(1)));
        let mut segments: Vec<_> = segments.map(|(context, ids)| Segment::new(context, ids)).collect();
        segments.extend(newcomer.map(|(context, part)| Segment::new(context, part)));
        let begin = Instant::now();
        engine.pass(&mut segments, logits)?.into_iter().collect::<Result<(), _>>()?;
        Ok(begin.elapsed())
    }

    /// Adds a client, whose prompt runs in parts with the next tokens of the others, as in a
    /// [`Batch`](flash_model::Batch).
    fn join(&mut self, prompt_tokens: usize, disk: ByteRate) -> anyhow::Result<Newcomer> {
        let prompt: Vec<u32> = (0..prompt_tokens).map(|_| self.rng.u32(..self.vocab_size)).collect();
        let mut newcomer = self.engine.new_context();
        let alone = self.pass_with(0, Some((&mut newcomer, &prompt)))?;
        newcomer.truncate(0)?;
        let limits =
            PassLimits { max_rows: self.engine.max_rows(), max_pass: BatchOptions::default().max_pass };
        let (mut n_passes, mut first_token, mut rest) = (0, Duration::ZERO, prompt.as_slice());
        while !rest.is_empty() {
            let estimate = PassEstimate { disk: Some(disk), ..self.engine.pass_estimate() };
            let n_rows = rows::allot(&estimate, limits, self.contexts.len(), &[rest.len()])[0];
            let part;
            (part, rest) = rest.split_at(n_rows.max(1));
            first_token += self.pass_with(1, Some((&mut newcomer, part)))?;
            n_passes += 1;
        }
        Ok(Newcomer { alone, first_token, pass: first_token / n_passes })
    }

    /// Returns the bytes of weights and pages read so far.
    fn read_bytes(&self) -> u64 {
        let stats = self.engine.stats();
        stats.streamed_bytes + stats.kv_read_bytes
    }
}

fn table(rows: &[Row]) -> Vec<Vec<Cell>> {
    let right = |text: String| (text, true);
    let heads = [
        "clients",
        "tok/s",
        "each",
        "read a token",
        "a pass",
        "limit fraction",
        "newcomer",
        "alone",
        "others meanwhile",
        "peak memory",
    ];
    let mut table = vec![heads.map(|head| right(head.to_owned())).to_vec()];
    let fastest = rows.iter().map(|row| row.tok_per_s).fold(0.0, f64::max);
    table.extend(rows.iter().map(|row| {
        let bar = (BAR as f64 * row.tok_per_s / fastest).round() as usize;
        vec![
            right(row.clients.to_string()),
            right(format!("{:.2}", row.tok_per_s)),
            right(format!("{:.2}", row.tok_per_s_each)),
            size(row.streamed_bytes_per_token),
            right(format!("{:.0} ms", row.pass_ms)),
            right(format!("{:.2}", row.limit_fraction)),
            right(format!("{:.0} ms", row.newcomer_ttft_ms)),
            right(format!("{:.0} ms", row.newcomer_alone_ms)),
            right(format!("{:.2}×", row.others_fraction)),
            right(format!("{} of {}", Bytes(row.peak_rss_bytes), Bytes(row.budget_bytes))),
            left("█".repeat(bar)),
        ]
    }));
    table
}
