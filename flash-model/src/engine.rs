//! Running a model within a memory budget.

mod answer;
mod batch;
mod context;
mod contexts;
pub mod draft;
mod generate;
mod identity;
mod load;
mod model;
mod needs;
mod options;
mod pass;
mod prefixes;
pub mod sample;
mod session;
mod speculate;
mod stats;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flash_io::{Budget, Reservation};
use flash_sched::PassEstimate;

use crate::ModelError;
use crate::engine::contexts::Contexts;
use crate::engine::pass::LoadedModel;
use crate::memory::allowance::Allowance;
use crate::stream::residency::Residency;

pub use batch::{Answer, Batch, BatchError, BatchOptions, Request, StartError};
pub use context::Context;
pub use generate::{FinishReason, GenerateOptions, Generation, generate};
pub use model::Model;
pub use needs::{FLOOR_CONTEXT_TOKENS, MemoryNeeds, Workload};
pub use options::{EngineOptions, ModelOptions};
pub use pass::{Logits, Segment};
pub use session::{Recovery, Resumption, SessionContext};
pub use speculate::{Speculation, SpeculationStats};
pub use stats::EngineStats;

/// A running model: takes tokens, returns logits, and holds the KV cache of the tokens so far.
///
/// An engine is neither [`Send`] nor [`Sync`]: it stays on the thread that loaded it. MLX has a default stream per
/// thread, whose queue runs submitted operations in order. Submitted operations write to the caches of layers, and a
/// slot is refilled once the operations that read it have run: both rely on a single queue. Other threads can use
/// [`interrupt`](Self::interrupt) and [`allowance`](Self::allowance).
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<flash_model::Engine>();
/// ```
#[derive(Debug)]
pub struct Engine {
    /// Makes the engine `!Send` and `!Sync`, whatever its other fields are.
    _thread: PhantomData<*const ()>,
    model: LoadedModel,
    contexts: Arc<Contexts>,
    /// The engine's own context; none before its first use.
    context: Option<Context>,
    budget: Budget,
    model_bytes: u64,
    floor_bytes: u64,
    /// Contexts and rows of a pass that memory is planned for.
    n_contexts: usize,
    max_rows: usize,
    /// Reserves the memory that the process uses outside of the budget's own allocations.
    _overhead: Reservation,
}

impl Engine {
    /// Runs tokens through the model, appends them to the context, and returns the logits of the last one. Logits are
    /// returned as computed: broken weights may yield NaN or infinities, which a
    /// [`Sampler`](crate::engine::sample::Sampler) rejects.
    ///
    /// # Errors
    /// [`ModelError`]; the cache then holds the tokens that it held before. It holds none if the failed pass overwrote
    /// some of them, which can happen in a paged cache and in one that [only grows](crate::KvPolicy::is_append_only).
    /// [`ModelError::RouterScore`] if hidden states are so broken that no experts can be chosen.
    pub fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut logits = Vec::new();
        self.forward_into(ids, &mut logits)?;
        Ok(logits)
    }

    /// Runs tokens as [`forward`](Self::forward) does, and writes the logits to a buffer that can be reused between
    /// passes.
    ///
    /// # Errors
    /// The errors of [`forward`](Self::forward); the contents of `logits` are unspecified then.
    pub fn forward_into(&mut self, ids: &[u32], logits: &mut Vec<f32>) -> Result<(), ModelError> {
        let mut of_pass = Logits::in_buffer(std::mem::take(logits));
        let passed = self.pass_own(ids, false, &mut of_pass);
        *logits = of_pass.into_buffer();
        passed
    }

    /// Runs tokens in the engine's own context, with the logits of all of them if they are tentative, else of the last.
    fn pass_own(&mut self, ids: &[u32], is_tentative: bool, logits: &mut Logits) -> Result<(), ModelError> {
        let (model, context) = self.own_parts();
        let segment = match is_tentative {
            true => Segment::tentative(context, ids),
            false => Segment::new(context, ids),
        };
        model.pass(&mut [segment], logits)?.into_iter().collect()
    }

    /// Runs new tokens of any number of contexts through the model in one pass over the weights, and sets `logits` to
    /// those that the segments want. A pass over streamed weights takes as long for some rows as for one.
    ///
    /// Each context's tokens and logits have the same bits as if it ran alone, if CPU kernels compute. Returns the outcome
    /// of each segment. A segment fails alone if its tokens are not in the vocabulary or do not fit; it is then not run, and
    /// has no logits. It also fails alone if its pages cannot be read or written; its logits are then meaningless, and its
    /// context is as after a failed [`forward`](Self::forward).
    ///
    /// # Errors
    /// The errors of [`forward`](Self::forward) that concern all segments: all contexts are then as after a failed
    /// [`forward`](Self::forward).
    ///
    /// # Panics
    /// If a context was created by another engine, or a segment wants more logits than it has tokens.
    pub fn pass(
        &mut self,
        segments: &mut [Segment<'_>],
        logits: &mut Logits,
    ) -> Result<Vec<Result<(), ModelError>>, ModelError> {
        self.model.pass(segments, logits)
    }

    /// Creates an empty context. It takes memory from its first pass on, and there is memory for [as
    /// many](Workload::n_contexts) as planned; the engine's own is one of them once it has been used. There can be any number
    /// of others that are [parked](Context::park).
    pub fn new_context(&self) -> Context {
        Context::new(&self.contexts)
    }

    /// Creates a context with the tokens of another one, which continues on its own: whatever happens to one of them changes
    /// no bit of the other. Keys, values and states are copied.
    ///
    /// # Errors
    /// [`ModelError::Kv`] or [`ModelError::Io`] if the budget has no room for another one, or the pages of the context cannot
    /// be read; [`ModelError::Rotates`] if old pages of the context have been evicted.
    ///
    /// # Panics
    /// If the context was created by another engine.
    pub fn fork(&self, context: &mut Context) -> Result<Context, ModelError> {
        context.check_owner(&self.contexts);
        context.fork()
    }

    /// Returns the estimated time of a pass by its rows.
    pub fn pass_estimate(&self) -> PassEstimate {
        let LoadedModel { residency, experts, cost, .. } = &self.model;
        PassEstimate {
            cost: cost.clone(),
            streamed_bytes: residency.pass_bytes(),
            experts: experts.as_ref().map(|experts| experts.reads().clone()),
            disk: self.model.disk(),
        }
    }

    /// Returns the number of contexts that memory is planned for.
    pub fn n_contexts(&self) -> usize {
        self.n_contexts
    }

    /// Returns the number of rows of a pass that may be [tentative](Segment::is_tentative).
    pub fn max_tentative_rows(&self) -> usize {
        self.model.max_tentative_rows
    }

    /// Returns the number of rows of a pass that an answer may draft.
    fn draft_rows(&self, speculation: Speculation) -> usize {
        match speculation {
            Speculation::Off => 0,
            // Drafts would change tokens.
            Speculation::Auto if !self.model.is_batch_invariant => 0,
            _ => self.max_tentative_rows(),
        }
    }

    /// Returns the number of rows of a pass that memory is planned for: those of the longest planned prompt, or one for each
    /// context.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Checks tokens before they run in a context.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`], [`ModelError::TokenOutOfRange`], and [`ModelError::PromptTooLong`] if there is no room.
    pub fn check(&self, context: &Context, tokens: &[u32]) -> Result<(), ModelError> {
        self.model.check(context, tokens)
    }

    /// Computes the cross-entropy, in nats, of each token but the first, given the tokens before it, and empties the
    /// cache. No loss is NaN.
    ///
    /// # Errors
    /// The errors of [`forward`](Self::forward); [`ModelError::LossNan`] if a logit is NaN or infinite, so that a token
    /// has no loss.
    pub fn losses(&mut self, ids: &[u32]) -> Result<Vec<f64>, ModelError> {
        self.model.decoder.embedding().check(ids)?;
        self.truncate(0)?;
        let (model, context) = self.own_parts();
        let losses = model.losses(context, ids);
        self.truncate(0)?;
        losses
    }

    /// Returns the model and the engine's own context, which is created if this is its first use.
    fn own_parts(&mut self) -> (&mut LoadedModel, &mut Context) {
        let Self { model, contexts, context, .. } = self;
        (model, context.get_or_insert_with(|| Context::new(contexts)))
    }

    fn own(&mut self) -> &mut Context {
        self.own_parts().1
    }

    /// Returns the tokens of the context, which the cache holds.
    pub fn held(&self) -> &[u32] {
        self.context.as_ref().map_or(&[], Context::held)
    }

    /// Returns the number of tokens in the cache.
    pub fn held_tokens(&self) -> usize {
        self.held().len()
    }

    /// Returns the number of tokens that the cache can hold: the planned capacity, up to the
    /// [trained context length](crate::Model::max_context_tokens) or the requested one, whichever is more.
    pub fn context_tokens(&self) -> usize {
        self.contexts.max_tokens()
    }

    /// Truncates the context to its first `tokens` tokens, and returns how many are left.
    ///
    /// Removes all tokens if so much of a paged cache has left its window that the following logits would not have the
    /// same bits, if the cache [only grows](crate::KvPolicy::is_append_only) and tokens that the next one attends to
    /// are gone, or if layers have a recurrent state, which cannot be rewound.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the disk has failed.
    pub fn truncate(&mut self, tokens: usize) -> Result<usize, ModelError> {
        self.context.as_mut().map_or(Ok(0), |context| context.truncate(tokens))
    }

    /// Fills a paged cache with synthetic tokens, so that decoding behind a long context can be measured without
    /// computing one.
    ///
    /// # Errors
    /// [`ModelError::PromptTooLong`], and errors of writing the pages.
    pub fn fill_synthetic(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let context_tokens = self.context_tokens();
        if n_tokens > context_tokens {
            return Err(ModelError::PromptTooLong { prompt_tokens: n_tokens, context_tokens });
        }
        self.own().kv()?.fill_synthetic(n_tokens)
    }

    /// Returns a flag that any thread can set to end a pass with [`ModelError::Interrupted`]: between two chunks of a
    /// layer, two experts, or two tiles of the head.
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        self.model.interrupt.flag()
    }

    /// Returns the handle that sets, from any thread, how much of its budget the engine may use.
    pub fn allowance(&self) -> Allowance {
        self.model.residency.allowance()
    }

    /// Returns how many bytes of its budget the engine can use: those of the plan, and of the embedding table if it
    /// fits.
    pub fn useful_bytes(&self) -> u64 {
        let LoadedModel { decoder, residency, .. } = &self.model;
        residency.plan().total_bytes + decoder.embedding().planned_bytes(residency)
    }

    /// Returns the residency of the bundles: its plan and state.
    pub fn residency(&self) -> &Residency {
        &self.model.residency
    }

    /// Returns statistics of the engine so far.
    pub fn stats(&self) -> EngineStats {
        let LoadedModel { decoder, residency, token_compute, .. } = &self.model;
        let reads = residency.reader().stats();
        let kv = self.contexts.traffic.stats();
        let experts = self.model.expert_traffic();
        let expert_reads = experts.unwrap_or_default();
        EngineStats {
            model_bytes: self.model_bytes,
            budget_bytes: self.budget.total_bytes(),
            floor_bytes: self.floor_bytes,
            pinned_bytes: residency.pinned_bytes(),
            table_bytes: decoder.embedding().held_bytes(),
            streamed_bytes: residency.streamed_bytes() + expert_reads.read_bytes,
            pass_bytes: residency.pass_bytes() + expert_reads.token_read_bytes,
            stall: self.model.stall(),
            experts,
            kv_stall: kv.waited,
            kv_read_bytes: kv.read_bytes,
            kv_written_bytes: kv.written_bytes,
            kv_sealing: kv.sealing,
            retries: reads.retries,
            reading: reads.active,
            disk: self.model.disk(),
            token_compute: token_compute.value(),
            estimates: residency.estimates(),
        }
    }
}
