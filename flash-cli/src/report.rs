//! What was planned and what was done, in words.

use std::fmt::Write;
use std::time::Duration;

use flash_model::{BundleInfo, Engine, EngineStats, ExpertTraffic, Generation, Model, Workload, memory};
use serde::Serialize;

use crate::output::note;
use crate::size::Bytes;

/// Tells what the parts of a budget are, before it is held against them.
pub(crate) fn needs(model: &Model, workload: &Workload, budget_bytes: u64) {
    let needs = model.needs(workload, budget_bytes);
    let Workload { prompt_tokens, context_tokens, prefetch, .. } = *workload;
    note(&format!("workload: prompt {prompt_tokens}, context {context_tokens} tokens, prefetch {prefetch}"));
    note(&format!(
        "needs: process {}, KV {}, experts {}, activations {}, small weights {}",
        Bytes(needs.process_bytes),
        Bytes(needs.kv_bytes),
        Bytes(needs.expert_bytes),
        Bytes(needs.activation_bytes),
        Bytes(needs.small_weights_bytes),
    ));
    let floor_bytes = model.floor_bytes(workload);
    note(&format!("budget: {}, floor {}", Bytes(budget_bytes), Bytes(floor_bytes)));
}

/// Tells which bundles stay in memory and which are streamed.
pub(crate) fn plan(engine: &Engine) {
    let plan = engine.residency().plan();
    note(&format!(
        "plan: {} pinned, {} streamed for each pass through {} slots of {}; {} in all",
        Bytes(plan.pinned_bytes),
        Bytes(plan.streamed_bytes),
        plan.n_slots,
        Bytes(plan.slot_bytes),
        Bytes(plan.total_bytes),
    ));
    for (BundleInfo { name, tensor_bytes, .. }, is_pinned) in
        engine.residency().bundles().info().zip(&plan.pinned)
    {
        note(&format!(
            "  {} {name} ({})",
            if *is_pinned { "pinned  " } else { "streamed" },
            Bytes(tensor_bytes)
        ));
    }
}

/// One line about a run.
pub(crate) fn summary(stats: &EngineStats, generation: &Generation) -> String {
    let mut parts = vec![match generation.decode_tok_per_s() {
        Some(tok_per_s) => format!("{} tokens at {tok_per_s:.1} tok/s", generation.token_ids.len()),
        None => format!("{} tokens", generation.token_ids.len()),
    }];
    if let Some(fraction) = limit_fraction(stats, generation) {
        parts.push(format!("{:.0} % of the limit", 100.0 * fraction));
    }
    parts.push(format!("budget {}", Bytes(stats.budget_bytes)));
    parts.push(format!("model {}", Bytes(stats.model_bytes)));
    parts.push(format!("streamed {}", Bytes(stats.streamed_bytes)));
    parts.extend(stats.experts.as_ref().map(experts));
    parts.push(format!("peak memory {}", Bytes(peak_bytes())));
    if stats.retries > 0 {
        parts.push(format!("{} reads repeated", stats.retries));
    }
    parts.join(", ")
}

/// Where experts were found.
pub(crate) fn experts(experts: &ExpertTraffic) -> String {
    let uses = (experts.hits + experts.misses).max(1);
    let mut line = format!("{:.0} % of experts found in memory", 100.0 * experts.hits as f64 / uses as f64);
    let ahead = &experts.ahead;
    if let (Some(precision), Some(recall)) = (ahead.precision(), ahead.recall()) {
        let [precision, recall] = [precision, recall].map(|part| 100.0 * part);
        // A write to a string does not fail.
        let _ = write!(line, "; {precision:.0} % of guesses right, {recall:.0} % of the missing guessed");
    }
    if let Some(gain) = ahead.gain {
        let _ = write!(line, ", which saves {:.1} % of a token", 100.0 * gain);
    }
    line
}

/// What was done with experts, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct ExpertsReport {
    hits: u64,
    misses: u64,
    read_bytes: u64,
    /// Read before their layer asked for them.
    guessed: u64,
    guessed_right: u64,
    /// What part of the guesses was right, and of the missing experts was guessed.
    precision: Option<f64>,
    recall: Option<f64>,
    /// What part of a token guesses saved in the last trial.
    lookahead_gain: Option<f64>,
}

impl From<ExpertTraffic> for ExpertsReport {
    fn from(traffic: ExpertTraffic) -> Self {
        let ExpertTraffic { hits, misses, read_bytes, ahead, .. } = traffic;
        Self {
            hits,
            misses,
            read_bytes,
            guessed: ahead.guessed,
            guessed_right: ahead.right,
            precision: ahead.precision(),
            recall: ahead.recall(),
            lookahead_gain: ahead.gain,
        }
    }
}

/// How close the decoding came to what disk and processor allow; none without a token that was decoded.
fn limit_fraction(stats: &EngineStats, generation: &Generation) -> Option<f64> {
    let tok_per_s = generation.decode_tok_per_s().filter(|rate| rate.is_finite() && *rate > 0.0)?;
    stats.token_compute?;
    let token = Duration::try_from_secs_f64(1.0 / tok_per_s).ok()?;
    // The compute of a token is an average: a run may be a little faster.
    Some(stats.limit().fraction(token).min(1.0))
}

/// The most memory that the process has had; 0 where the system does not tell.
pub(crate) fn peak_bytes() -> u64 {
    memory::resident().map_or(0, |resident| resident.peak_bytes)
}

/// Milliseconds, with their fraction.
pub(crate) fn ms(duration: Duration) -> f64 {
    1000.0 * duration.as_secs_f64()
}
