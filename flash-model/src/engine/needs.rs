//! The memory that a workload needs besides streamed and pinned weights.

use std::sync::OnceLock;

use flash_kernels::SPAN_TOKENS;
use flash_kv::KvShape;

use crate::compute::Backend;
use crate::decoder::{CHUNK_TOKENS, Decoder};
use crate::engine::speculate::Speculator;
use crate::kv::{KvPlan, KvPolicy, PagedPlan, StateShape, window_tokens};
use crate::stream::bundle::{Bundle, Bundles};
use crate::stream::experts::Mixture;
use crate::{ModelError, memory};

/// The shortest context that a floor (the smallest budget that works) is computed for, so that short prompts do not
/// change it. Its prompt has half as many tokens.
pub const FLOOR_CONTEXT_TOKENS: usize = 256;

/// Contexts are planned in multiples of this, so that a token more or less does not change a plan.
const CONTEXT_STEP_TOKENS: usize = 128;

/// Part of a budget that drafts may take, which then reads that much more of the weights.
const DRAFT_PART: f64 = 0.01;
/// Most rows of a draft, with the token before it.
const TENTATIVE_ROWS_MAX: usize = 32;

/// The longest context that memory is planned for: MLX counts positions in 31 bits. Larger requests mean "unlimited".
const CONTEXT_TOKENS_MAX: usize = 1 << 30;

/// Growth of the resident set after planning, apart from the memory that the plan counts: OS pages of code that runs
/// then for the first time, stacks of threads, the heap.
const GROWTH_BYTES: u64 = 4 << 20;
/// Resident set before planning where the system does not report it: that of `flash-cli` with a large vocabulary.
const RESIDENT_BYTES_DEFAULT: u64 = 48 << 20;
/// The resident set is counted in steps of this, so that its differences between runs seldom change a plan.
const RESIDENT_STEP_BYTES: u64 = 1 << 20;
/// Largest difference of the resident set between runs, of one command or another, rounded up.
const RUN_DIFFERENCE_BYTES: u64 = 4 * RESIDENT_STEP_BYTES;

/// Returns the memory of the process besides what a plan counts. It is measured at the first plan, and once, so that all
/// plans of a process agree; by then a tokenizer should be loaded.
fn process_bytes() -> u64 {
    static RESIDENT_BYTES: OnceLock<u64> = OnceLock::new();
    let measure = || memory::resident().map_or(RESIDENT_BYTES_DEFAULT, |resident| resident.now_bytes);
    RESIDENT_BYTES.get_or_init(measure).next_multiple_of(RESIDENT_STEP_BYTES) + GROWTH_BYTES
}

/// The lengths and settings of a run that determine its memory needs. Create with [`new`](Self::new), then set fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// Tokens of the longest prompt.
    pub prompt_tokens: usize,
    /// Tokens that the KV cache must hold: prompt and answer.
    pub context_tokens: usize,
    /// Whether the next bundle is read while one computes, which takes a second slot.
    pub prefetch: bool,
    /// Storage policy of keys and values.
    pub kv: KvPolicy,
    /// Contexts that exist at once, each of `context_tokens`, and whose next tokens may be computed in one pass.
    pub n_contexts: usize,
    /// Rows of a pass that may be [tentative](crate::Segment::is_tentative).
    pub tentative_rows: usize,
}

impl Workload {
    /// Creates a workload with prefetching, and with keys and values stored exactly.
    pub fn new(prompt_tokens: usize, context_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            context_tokens,
            prefetch: true,
            kv: KvPolicy::default(),
            n_contexts: 1,
            tentative_rows: 0,
        }
    }

    /// Sets the storage policy of keys and values.
    #[must_use]
    pub fn with_kv(self, kv: KvPolicy) -> Self {
        Self { kv, ..self }
    }

    /// Sets the number of contexts; 0 means 1.
    #[must_use]
    pub fn with_contexts(self, n_contexts: usize) -> Self {
        Self { n_contexts: n_contexts.max(1), ..self }
    }

    /// Sets the rows of a pass that may be tentative.
    #[must_use]
    pub fn with_tentative_rows(self, tentative_rows: usize) -> Self {
        Self { tentative_rows, ..self }
    }

    /// Sets whether the next bundle is read ahead.
    #[must_use]
    pub fn with_prefetch(self, prefetch: bool) -> Self {
        Self { prefetch, ..self }
    }

    /// Returns the context length that memory is planned for.
    pub(crate) fn planned_tokens(&self) -> usize {
        self.context_tokens.clamp(1, CONTEXT_TOKENS_MAX).next_multiple_of(CONTEXT_STEP_TOKENS)
    }

    /// Returns the workload that the floor is computed for.
    fn at_floor(self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.max(FLOOR_CONTEXT_TOKENS / 2),
            context_tokens: self.context_tokens.max(FLOOR_CONTEXT_TOKENS),
            ..self
        }
    }
}

/// The parts of a budget that are not streamed or pinned weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryNeeds {
    /// The program itself, with its tokenizer.
    pub process_bytes: u64,
    /// Keys and values, and recurrent states.
    pub kv_bytes: u64,
    /// Slots of experts, both cached and in transit.
    pub expert_bytes: u64,
    /// Activations, logits and scratch memory of the backend.
    pub activation_bytes: u64,
    /// Weights too small to be worth streaming.
    pub small_weights_bytes: u64,
}

/// The parts of a model that determine its memory needs.
#[derive(Debug, Clone)]
pub(crate) struct MemoryPlanner<'a> {
    pub backend: &'a Backend,
    pub decoder: &'a Decoder,
    pub bundles: &'a Bundles,
    pub kv_shape: KvShape,
    /// Number of layers with keys and values.
    pub n_layers: usize,
    /// Sliding window of each of those layers.
    pub windows: &'a [Option<usize>],
    /// Recurrent states.
    pub states: Vec<StateShape>,
}

impl MemoryPlanner<'_> {
    /// Returns the needs of a workload with the KV cache that suits the budget: contiguous if allowed and if it fits,
    /// else paged.
    pub(crate) fn needs(&self, workload: &Workload, budget_bytes: u64) -> (MemoryNeeds, KvPlan) {
        let (mut needs, kv) = self.with_fewest_experts(workload, budget_bytes);
        if let Some(experts) = self.decoder.expert_plan() {
            // Bundles that every token uses take precedence over cached experts.
            let others_bytes = needs.fixed_bytes() - needs.expert_bytes + self.bundles.cost_bytes();
            needs.expert_bytes = experts.bytes_of(budget_bytes.saturating_sub(others_bytes));
        }
        (needs, kv)
    }

    /// Returns the needs of a workload with the fewest expert slots that work.
    fn with_fewest_experts(&self, workload: &Workload, budget_bytes: u64) -> (MemoryNeeds, KvPlan) {
        let weights_floor_bytes = self.bundles.floor_bytes(workload.prefetch);
        if let Some((needs, kv)) = self.plain(workload)
            && needs.fixed_bytes() + weights_floor_bytes <= budget_bytes
        {
            return (needs, kv);
        }
        let (least, kv) = self.least(workload);
        let KvPlan::Paged(_) = kv else { return (least, kv) };
        let n_contexts = workload.n_contexts as u64;
        let others_bytes = least.fixed_bytes() - n_contexts * kv.budget_bytes() + weights_floor_bytes;
        let expert_bytes = self.decoder.expert_plan().map_or(0, |experts| experts.total_bytes);
        let weights_bytes = self.bundles.cost_bytes().saturating_sub(weights_floor_bytes) + expert_bytes;
        let kv = PagedPlan::choose(
            &workload.kv,
            self.kv_shape,
            self.n_layers,
            workload.planned_tokens(),
            // Each context gets the same share.
            budget_bytes.saturating_sub(others_bytes) / n_contexts,
            weights_bytes / n_contexts,
        );
        let kv = KvPlan::Paged(kv);
        (self.needs_with(workload, &kv), kv)
    }

    /// Returns the needs with a contiguous KV cache, if the workload allows one.
    fn plain(&self, workload: &Workload) -> Option<(MemoryNeeds, KvPlan)> {
        let context_tokens = workload.planned_tokens();
        let keeps_windows = workload.kv.is_append_only && self.backend.wraps_windows();
        let capacity = |window: &Option<usize>| match window {
            Some(window) if keeps_windows => window_tokens(*window, CHUNK_TOKENS).min(context_tokens),
            _ => context_tokens,
        };
        let capacities = self.windows.iter().map(capacity).collect();
        let kv = KvPlan::Plain { shape: self.kv_shape, capacities, context_tokens };
        workload.kv.is_plain().then(|| (self.needs_with(workload, &kv), kv))
    }

    /// Returns the smallest needs of a workload.
    fn least(&self, workload: &Workload) -> (MemoryNeeds, KvPlan) {
        let kv = PagedPlan::new(&workload.kv, self.kv_shape, self.n_layers, workload.planned_tokens(), 0);
        let kv = KvPlan::Paged(kv);
        let paged = self.needs_with(workload, &kv);
        match self.plain(workload) {
            // MLX's contiguous attention rounds differently from its paged one, and a budget must change no bit.
            Some(plain)
                if self.backend.scores_all_at_once() || plain.0.total_bytes() <= paged.total_bytes() =>
            {
                plain
            }
            _ => (paged, kv),
        }
    }

    /// Returns the needs of a workload with the given KV cache and the fewest expert slots.
    fn needs_with(&self, workload: &Workload, kv: &KvPlan) -> MemoryNeeds {
        let Self { backend, decoder, bundles, ref states, .. } = *self;
        let state_bytes: u64 = states.iter().map(StateShape::budget_bytes).sum();
        let prompt_tokens = workload.prompt_tokens.clamp(1, CONTEXT_TOKENS_MAX);
        let widened = bundles.as_slice().iter().map(Bundle::widened_bytes);
        let widened = widened.chain(decoder.mixtures().flatten().map(Mixture::widened_bytes));
        let widened_bytes = widened.max().unwrap_or(0);
        let scored_tokens = match kv {
            KvPlan::Plain { .. } if backend.scores_all_at_once() => workload.planned_tokens(),
            _ => SPAN_TOKENS,
        };
        let n_rows = workload.n_contexts + workload.tentative_rows;
        let draft_bytes = match workload.tentative_rows {
            0 => 0,
            n_tentative => {
                let recorded_bytes: u64 = states.iter().map(|state| state.recorded_bytes(n_tentative)).sum();
                recorded_bytes + Speculator::bytes_max(workload.planned_tokens())
            }
        };
        let activation_bytes =
            decoder.activation_bytes(prompt_tokens.max(n_rows), n_rows, scored_tokens) + draft_bytes;
        MemoryNeeds {
            process_bytes: process_bytes(),
            kv_bytes: workload.n_contexts as u64 * (kv.budget_bytes() + state_bytes),
            expert_bytes: decoder.expert_plan().map_or(0, |experts| experts.floor_bytes()),
            activation_bytes: activation_bytes + backend.scratch_bytes(widened_bytes, activation_bytes),
            small_weights_bytes: bundles.small_bytes(),
        }
    }

    /// Returns the number of tentative rows that take at most [a part](DRAFT_PART) of a budget beyond the smallest one that
    /// works; 0 if that is no draft, or drafts could change tokens.
    pub(crate) fn affordable_tentative_rows(&self, workload: &Workload, budget_bytes: u64) -> usize {
        let floor_bytes = |n_rows: usize| self.floor_bytes(&workload.with_tentative_rows(n_rows));
        let most_bytes = floor_bytes(0) + (budget_bytes as f64 * DRAFT_PART) as u64;
        let is_affordable = |n_rows: &usize| floor_bytes(*n_rows) <= most_bytes.min(budget_bytes);
        match self.backend.is_batch_invariant() {
            true => (2..=TENTATIVE_ROWS_MAX).take_while(is_affordable).last().unwrap_or(0),
            false => 0,
        }
    }

    /// Returns the smallest budget that works for a workload in this process.
    pub(crate) fn floor_bytes(&self, workload: &Workload) -> u64 {
        let (least, _) = self.least(&workload.at_floor());
        least.fixed_bytes() + self.bundles.floor_bytes(workload.prefetch)
    }

    /// Returns a budget close to the floor that works in other runs, too.
    pub(crate) fn reported_floor_bytes(&self, workload: &Workload) -> u64 {
        self.floor_bytes(workload) + RUN_DIFFERENCE_BYTES
    }

    /// Returns the error for a budget below the floor.
    pub(crate) fn below_floor(&self, workload: &Workload, budget_bytes: u64) -> ModelError {
        ModelError::BelowFloor {
            budget_bytes,
            floor_bytes: self.reported_floor_bytes(workload),
            context_tokens: workload.at_floor().planned_tokens(),
            advice: if workload.prefetch {
                "a shorter context, or no prefetch, lowers it"
            } else {
                "a shorter context lowers it"
            },
        }
    }
}

impl MemoryNeeds {
    /// Returns the sum of all parts.
    pub fn total_bytes(&self) -> u64 {
        let Self { process_bytes, kv_bytes, expert_bytes, activation_bytes, small_weights_bytes } = *self;
        process_bytes + kv_bytes + expert_bytes + activation_bytes + small_weights_bytes
    }

    /// Returns the sum of all parts but the small weights.
    pub(crate) fn fixed_bytes(&self) -> u64 {
        self.total_bytes() - self.small_weights_bytes
    }
}
