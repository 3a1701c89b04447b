//! Human-readable reports of plans and runs.

use std::fmt::Write;
use std::time::Duration;

use flash_model::draft::DraftCounts;
use flash_model::{
    BundleInfo, Engine, EngineStats, ExpertStats, Generation, Model, SpeculationStats, Workload, memory,
};
use serde::Serialize;

use crate::output::note;
use crate::size::Bytes;

/// Prints the memory requirements of a workload to standard error, before the budget is checked.
pub(crate) fn print_needs(model: &Model, workload: &Workload, budget_bytes: u64) {
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

/// Prints which bundles are pinned and which are streamed to standard error.
pub(crate) fn print_plan(engine: &Engine) {
    let plan = engine.residency().plan();
    note(&format!(
        "plan: {} pinned, {} streamed per pass through {} slots of {}; {} in total",
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

/// Summarizes a run in one line.
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
    parts.extend(drafts(&generation.speculation, generation.token_ids.len()));
    parts.push(format!("peak memory {}", Bytes(peak_bytes())));
    if stats.retries > 0 {
        parts.push(format!("{} reads retried", stats.retries));
    }
    parts.join(", ")
}

/// Summarizes what drafts brought; none without any.
fn drafts(speculation: &SpeculationStats, n_tokens: usize) -> Option<String> {
    let drafted = speculation.drafted();
    let tokens_per_pass = tokens_per_pass(speculation, n_tokens)?;
    let accepted = 100.0 * speculation.accepted() as f64 / drafted.max(1) as f64;
    (drafted > 0).then(|| {
        format!("{tokens_per_pass:.2} tokens a pass ({accepted:.0} % of {drafted} drafted accepted)")
    })
}

/// Returns the tokens of a pass after the prompt's, whose pass gave the first token; none without such passes.
fn tokens_per_pass(speculation: &SpeculationStats, n_tokens: usize) -> Option<f64> {
    (speculation.passes > 0).then(|| n_tokens.saturating_sub(1) as f64 / speculation.passes as f64)
}

/// Passes and drafts, for JSON output.
#[derive(Debug, Serialize)]
pub(crate) struct SpeculationReport {
    /// Passes after the prompt's.
    passes: u64,
    /// Tokens after the first by those passes.
    tokens_per_pass: Option<f64>,
    drafted: u64,
    accepted: u64,
    /// By drafter.
    drafts: DraftsReport,
}

/// Drafts by drafter.
#[derive(Debug, Serialize)]
struct DraftsReport {
    copies: DraftReport,
    recycling: DraftReport,
}

/// Drafts of one drafter.
#[derive(Debug, Serialize)]
struct DraftReport {
    drafts: u64,
    drafted: u64,
    accepted: u64,
}

impl From<DraftCounts> for DraftReport {
    fn from(DraftCounts { drafts, drafted, accepted }: DraftCounts) -> Self {
        Self { drafts, drafted, accepted }
    }
}

impl SpeculationReport {
    pub(crate) fn new(generation: &Generation) -> Self {
        let speculation = &generation.speculation;
        Self {
            passes: speculation.passes,
            tokens_per_pass: tokens_per_pass(speculation, generation.token_ids.len()),
            drafted: speculation.drafted(),
            accepted: speculation.accepted(),
            drafts: DraftsReport {
                copies: speculation.copies.into(),
                recycling: speculation.recycling.into(),
            },
        }
    }
}

/// Summarizes the hit rate of the expert cache, and precision and recall of expert lookahead.
pub(crate) fn experts(experts: &ExpertStats) -> String {
    let uses = (experts.hits + experts.misses).max(1);
    let mut line = format!("{:.0} % of experts hit in memory", 100.0 * experts.hits as f64 / uses as f64);
    let ahead = &experts.ahead;
    if let (Some(precision), Some(recall)) = (ahead.precision(), ahead.recall()) {
        let [precision, recall] = [precision, recall].map(|part| 100.0 * part);
        // Writing to a string cannot fail.
        let _ = write!(line, "; lookahead precision {precision:.0} %, recall {recall:.0} %");
    }
    if let Some(gain) = ahead.gain {
        let _ = write!(line, ", saves {:.1} % of the time per token", 100.0 * gain);
    }
    line
}

/// Statistics of the expert cache, for JSON output.
#[derive(Debug, Serialize)]
pub(crate) struct ExpertsReport {
    hits: u64,
    misses: u64,
    read_bytes: u64,
    /// Experts that lookahead read before their layer needed them.
    guessed: u64,
    /// Experts among those that their layer used.
    guessed_right: u64,
    /// Fraction of lookahead reads that were used.
    precision: Option<f64>,
    /// Fraction of expert misses that lookahead had already requested.
    recall: Option<f64>,
    /// Fraction of the time per token that lookahead saved in its last trial.
    lookahead_gain: Option<f64>,
}

impl From<ExpertStats> for ExpertsReport {
    fn from(traffic: ExpertStats) -> Self {
        let ExpertStats { hits, misses, read_bytes, ahead, .. } = traffic;
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

/// Returns the decoding speed as a fraction of the limit set by disk and processor; none if no token was decoded.
fn limit_fraction(stats: &EngineStats, generation: &Generation) -> Option<f64> {
    let tok_per_s = generation.decode_tok_per_s().filter(|rate| rate.is_finite() && *rate > 0.0)?;
    stats.token_compute?;
    let token = Duration::try_from_secs_f64(1.0 / tok_per_s).ok()?;
    // The compute time per token is an average, so a run may be slightly faster than the limit.
    Some(stats.limit().fraction(token).min(1.0))
}

/// Returns the peak resident memory of the process; 0 where the system does not report it.
pub(crate) fn peak_bytes() -> u64 {
    memory::resident().map_or(0, |resident| resident.peak_bytes)
}

/// Converts a duration to milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    1000.0 * duration.as_secs_f64()
}
