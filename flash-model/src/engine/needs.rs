//! What of a budget is not weights.

use std::sync::OnceLock;

use flash_kernels::SPAN_TOKENS;
use flash_kv::KvShape;

use crate::compute::Backend;
use crate::decoder::{CHUNK_TOKENS, Decoder};
use crate::kv::{KvPlan, KvPolicy, PagedPlan, window_tokens};
use crate::stream::bundle::{Bundle, Bundles};
use crate::stream::experts::Mixture;
use crate::{ModelError, memory};

/// The context that every floor holds, so that a short prompt does not change it.
pub const FLOOR_CONTEXT_TOKENS: usize = 256;

/// The longest context that is planned: MLX counts positions in 31 bits. More is asked for as "without end".
const CONTEXT_TOKENS_MAX: usize = 1 << 30;

/// What the program takes before any weight: code, heap, thread stacks. Measured on Linux at 26 MiB, with a vocabulary of
/// 49,152, when the first tokens have been decoded; this and the next leave a third of it as a margin. What a process has when
/// its first plan is made was seen at 16 to 17 MiB, and not twice the same: with [`GROWTH_BYTES`] it must stay below this,
/// or floors would vary with it.
const PROCESS_BYTES: u64 = 32 << 20;
/// What a tokenizer takes for each entry of its vocabulary.
const VOCABULARY_ENTRY_BYTES: u64 = 250;
/// How far the resident set may still grow beyond what it is when the plan is made, apart from what the plan counts: the
/// pages of MLX's code, mostly.
const GROWTH_BYTES: u64 = 12 << 20;

/// The resident set when the first plan of the process was made: measured once, so that a floor that was asked for and
/// the one that a budget is held against are the same.
fn process_at_first_plan() -> u64 {
    static RESIDENT_BYTES: OnceLock<u64> = OnceLock::new();
    *RESIDENT_BYTES.get_or_init(|| memory::resident().map_or(0, |resident| resident.now_bytes))
}

/// What a run will ask of memory: [`new`](Self::new), and then fields that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// Tokens of the longest prompt.
    pub prompt_tokens: usize,
    /// Tokens that the KV cache must hold: prompt and answer.
    pub context_tokens: usize,
    /// Whether the next bundle is read while one computes, which takes a second slot.
    pub prefetch: bool,
    /// How keys and values are kept.
    pub kv: KvPolicy,
}

impl Workload {
    /// A prompt of so many tokens in a context of so many, with the next bundle read ahead, and keys and values as computed.
    pub fn new(prompt_tokens: usize, context_tokens: usize) -> Self {
        Self { prompt_tokens, context_tokens, prefetch: true, kv: KvPolicy::default() }
    }

    /// The same, with keys and values kept so.
    #[must_use]
    pub fn with_kv(self, kv: KvPolicy) -> Self {
        Self { kv, ..self }
    }

    /// The same, with or without the next bundle read ahead.
    #[must_use]
    pub fn with_prefetch(self, prefetch: bool) -> Self {
        Self { prefetch, ..self }
    }

    /// The context that memory is planned for.
    pub(crate) fn planned_tokens(&self) -> usize {
        self.context_tokens.clamp(FLOOR_CONTEXT_TOKENS, CONTEXT_TOKENS_MAX)
    }
}

/// The parts of a budget that are not streamed or pinned weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryNeeds {
    /// The program itself, with its tokenizer.
    pub process_bytes: u64,
    /// Keys and values, and the states of layers that have none.
    pub kv_bytes: u64,
    /// Slots of experts, for those that stay and those that come and go.
    pub expert_bytes: u64,
    /// Activations, logits, and what computing takes besides.
    pub activation_bytes: u64,
    /// Weights too small to be worth streaming.
    pub small_weights_bytes: u64,
}

/// What memory is planned of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned<'a> {
    pub backend: &'a Backend,
    pub decoder: &'a Decoder,
    pub bundles: &'a Bundles,
    pub kv_shape: KvShape,
    /// Of keys and values.
    pub n_layers: usize,
    /// Of each of them.
    pub windows: &'a [Option<usize>],
    /// What states of layers take.
    pub state_bytes: u64,
    pub vocab_size: usize,
}

impl Planned<'_> {
    /// What a workload needs, with the KV cache that suits a budget: in one piece if that may be and fits; if not, in pages.
    pub(crate) fn needs(&self, workload: &Workload, budget_bytes: u64) -> (MemoryNeeds, KvPlan) {
        let (mut needs, kv) = self.without_experts(workload, budget_bytes);
        if let Some(experts) = self.decoder.expert_plan() {
            // What every token needs comes first: routers, attention, norms and whatever else is no expert.
            let others_bytes = needs.fixed_bytes() - needs.expert_bytes + self.bundles.cost_bytes();
            needs.expert_bytes = experts.bytes_of(budget_bytes.saturating_sub(others_bytes));
        }
        (needs, kv)
    }

    /// The same, with as few experts as can be.
    fn without_experts(&self, workload: &Workload, budget_bytes: u64) -> (MemoryNeeds, KvPlan) {
        let weights_floor_bytes = self.bundles.floor_bytes(workload.prefetch);
        if let Some((needs, kv)) = self.plain(workload)
            && needs.fixed_bytes() + weights_floor_bytes <= budget_bytes
        {
            return (needs, kv);
        }
        let (least, kv) = self.least(workload);
        let KvPlan::Paged(_) = kv else { return (least, kv) };
        let others_bytes = least.fixed_bytes() - kv.budget_bytes() + weights_floor_bytes;
        let expert_bytes = self.decoder.expert_plan().map_or(0, |experts| experts.total_bytes);
        let weights_bytes = self.bundles.cost_bytes().saturating_sub(weights_floor_bytes) + expert_bytes;
        let kv = PagedPlan::choose(
            &workload.kv,
            self.kv_shape,
            self.n_layers,
            workload.planned_tokens(),
            budget_bytes.saturating_sub(others_bytes),
            weights_bytes,
        );
        let kv = KvPlan::Paged(kv);
        (self.of(workload, &kv), kv)
    }

    /// With the cache in one piece, if it may be.
    fn plain(&self, workload: &Workload) -> Option<(MemoryNeeds, KvPlan)> {
        let context_tokens = workload.planned_tokens();
        let keeps_windows = workload.kv.only_grows && self.backend.wraps_windows();
        let capacity = |window: &Option<usize>| match window {
            Some(window) if keeps_windows => window_tokens(*window, CHUNK_TOKENS).min(context_tokens),
            _ => context_tokens,
        };
        let capacities = self.windows.iter().map(capacity).collect();
        let kv = KvPlan::Plain { shape: self.kv_shape, capacities, context_tokens };
        workload.kv.is_plain().then(|| (self.of(workload, &kv), kv))
    }

    /// The least that a workload needs.
    fn least(&self, workload: &Workload) -> (MemoryNeeds, KvPlan) {
        let kv = PagedPlan::new(&workload.kv, self.kv_shape, self.n_layers, workload.planned_tokens(), 0);
        let kv = KvPlan::Paged(kv);
        let paged = self.of(workload, &kv);
        match self.plain(workload) {
            // MLX's attention over one piece rounds otherwise than that over pages, and a budget must change no bit.
            Some(plain)
                if self.backend.scores_all_at_once() || plain.0.total_bytes() <= paged.total_bytes() =>
            {
                plain
            }
            _ => (paged, kv),
        }
    }

    fn of(&self, workload: &Workload, kv: &KvPlan) -> MemoryNeeds {
        let Self { backend, decoder, bundles, state_bytes, vocab_size, .. } = *self;
        let prompt_tokens = workload.prompt_tokens.clamp(CHUNK_TOKENS, CONTEXT_TOKENS_MAX);
        let usual_bytes = PROCESS_BYTES + VOCABULARY_ENTRY_BYTES * vocab_size as u64;
        let measured_bytes = process_at_first_plan() + GROWTH_BYTES;
        let widened = bundles.as_slice().iter().map(Bundle::widened_bytes);
        let widened = widened.chain(decoder.mixtures().flatten().map(Mixture::widened_bytes));
        let widened_bytes = widened.max().unwrap_or(0);
        let scored_tokens = match kv {
            KvPlan::Plain { .. } if backend.scores_all_at_once() => workload.planned_tokens(),
            _ => SPAN_TOKENS,
        };
        let activation_bytes = decoder.activation_bytes(prompt_tokens, scored_tokens);
        MemoryNeeds {
            process_bytes: usual_bytes.max(measured_bytes),
            kv_bytes: kv.budget_bytes() + state_bytes,
            expert_bytes: decoder.expert_plan().map_or(0, |experts| experts.floor_bytes()),
            activation_bytes: activation_bytes + backend.scratch_bytes(widened_bytes, activation_bytes),
            small_weights_bytes: bundles.small_bytes(),
        }
    }

    /// The smallest budget.
    pub(crate) fn floor_bytes(&self, workload: &Workload) -> u64 {
        let (least, _) = self.least(workload);
        least.fixed_bytes() + self.bundles.floor_bytes(workload.prefetch)
    }

    /// Why a budget is too small.
    pub(crate) fn below_floor(&self, workload: &Workload, budget_bytes: u64) -> ModelError {
        ModelError::BelowFloor {
            budget_bytes,
            floor_bytes: self.floor_bytes(workload),
            context_tokens: workload.planned_tokens(),
            advice: if workload.prefetch {
                "a shorter context, or no prefetch, lowers it"
            } else {
                "a shorter context lowers it"
            },
        }
    }
}

impl MemoryNeeds {
    /// All of them.
    pub fn total_bytes(&self) -> u64 {
        let Self { process_bytes, kv_bytes, expert_bytes, activation_bytes, small_weights_bytes } = *self;
        process_bytes + kv_bytes + expert_bytes + activation_bytes + small_weights_bytes
    }

    /// All but weights.
    pub(crate) fn fixed_bytes(&self) -> u64 {
        self.total_bytes() - self.small_weights_bytes
    }
}
