//! A model that runs under a budget.

mod generate;
mod identity;
mod load;
mod model;
mod needs;
mod options;
mod prefixes;
pub mod sample;
mod session;
mod stats;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use flash_io::{Budget, Reservation};
use flash_kv::{PrefixStore, Scratch, Session};
use flash_sched::{ByteRate, Ema};

use crate::ModelError;
use crate::decoder::{Decoder, Pass};
use crate::engine::identity::EngineIdentity;
use crate::interrupt::Interrupt;
use crate::kv::KvCache;
use crate::memory::allowance::Allowance;
use crate::stream::experts::{ExpertTraffic, Experts};
use crate::stream::residency::Residency;

pub use generate::{FinishReason, GenerateOptions, Generation, generate};
pub use model::Model;
pub use needs::{FLOOR_CONTEXT_TOKENS, MemoryNeeds, Workload};
pub use options::EngineOptions;
pub use session::{Recovery, Resumption, SessionContext};
pub use stats::EngineStats;

/// A running model: tokens in, logits out, with the KV cache of what came before.
///
/// One thread drives it, the one that loaded it: an engine is neither [`Send`] nor [`Sync`]. MLX keeps its default stream for each
/// thread, and with it the queue on which what was begun runs in order. The cache of a layer is written by what was begun, and a
/// slot is refilled when what reads it has run: both rely on one queue. Other threads have [`interrupt`](Self::interrupt) and
/// [`allowance`](Self::allowance).
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<flash_model::Engine>();
/// ```
#[derive(Debug)]
pub struct Engine {
    /// It stays on its thread, whatever its fields may come to allow.
    _thread: PhantomData<*const ()>,
    decoder: Decoder,
    residency: Residency,
    kv: KvCache,
    /// Of a model that has some.
    experts: Option<Experts>,
    budget: Budget,
    model_bytes: u64,
    floor_bytes: u64,
    context_tokens: usize,
    token_compute: Ema,
    interrupt: Interrupt,
    /// What the context is saved in.
    session: Option<Session>,
    prefixes: Option<PrefixStore>,
    /// What its pages are told from others by.
    identity: EngineIdentity,
    kv_dir: PathBuf,
    /// Whether tokens are given up.
    rotates: bool,
    /// The pages on disk: gone with the engine.
    _scratch: Option<Scratch>,
    /// What of the budget no allocation of ours shows.
    _overhead: Reservation,
}

impl Engine {
    /// Passes tokens through the model, behind those that the cache holds, and returns the logits of the last one: as they were
    /// computed, so broken weights may leave NaN or infinities among them. A [`Sampler`](crate::engine::sample::Sampler) refuses those.
    ///
    /// # Errors
    /// [`ModelError`]; the cache then holds what it held before, or nothing if what tokens see in their windows has been written
    /// over, in pages or where the cache [only grows](crate::KvPolicy::only_grows). [`ModelError::RouterScore`] if hidden states are so broken that
    /// no experts can be chosen.
    pub fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut logits = Vec::new();
        self.forward_into(ids, &mut logits)?;
        Ok(logits)
    }

    /// [`forward`](Self::forward) to `logits`, whose memory serves one pass after the other.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); what `logits` holds then is nothing to rely on.
    pub fn forward_into(&mut self, ids: &[u32], logits: &mut Vec<f32>) -> Result<(), ModelError> {
        if ids.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        let begin = Instant::now();
        let stall = self.stall();
        self.pass(ids, |decoder, pass| decoder.logits(pass, ids, logits))?;
        if ids.len() == 1 {
            self.token_compute.observe(begin.elapsed().saturating_sub(self.stall() - stall));
        }
        Ok(())
    }

    /// The cross-entropy, in nats, of each token but the first, given those before it; the cache is emptied. None of them is NaN.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); [`ModelError::LossNan`] if a logit is NaN or infinite, so that a token has no loss.
    pub fn losses(&mut self, ids: &[u32]) -> Result<Vec<f64>, ModelError> {
        self.decoder.embedding().check(ids)?;
        self.truncate(0)?;
        let losses = self.pass(ids, |decoder, pass| decoder.losses(pass, ids));
        self.truncate(0)?;
        losses
    }

    /// How long computing has waited for weights.
    fn stall(&self) -> Duration {
        self.residency.stall() + self.expert_traffic().unwrap_or_default().stall
    }

    fn expert_traffic(&self) -> Option<ExpertTraffic> {
        self.experts.as_ref().map(Experts::traffic)
    }

    fn pass<T>(
        &mut self,
        ids: &[u32],
        run: impl FnOnce(&mut Decoder, &mut Pass<'_>) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        let prompt_tokens = self.held_tokens() + ids.len();
        if prompt_tokens > self.context_tokens {
            return Err(ModelError::PromptTooLong { prompt_tokens, context_tokens: self.context_tokens });
        }
        let Self { decoder, residency, kv, experts, interrupt, .. } = self;
        residency.begin_pass(ids.len())?;
        if let Some(experts) = experts {
            experts.begin_pass(ids.len());
        }
        let outcome = run(decoder, &mut Pass { residency, kv, experts, interrupt });
        if outcome.is_err() {
            // What was begun may still be writing to the cache; how it ends does not matter any more.
            drop(residency.settle());
        }
        residency.end_pass(outcome.is_ok());
        if let Some(experts) = experts {
            experts.end_pass(ids.len(), outcome.is_ok());
        }
        kv.end(outcome.is_ok())?;
        outcome
    }

    /// The tokens in the cache.
    pub fn held(&self) -> &[u32] {
        self.kv.held()
    }

    /// How many they are.
    pub fn held_tokens(&self) -> usize {
        self.kv.held_tokens()
    }

    /// Tokens that the cache can hold: what memory was planned for, up to what the model
    /// [was trained for](crate::Model::max_context_tokens) or, if that is more, up to what the workload asked for.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Forgets all but the first `tokens` tokens; or all, if so much of a cache in pages has left its window that what comes
    /// next would not have the same bits, or if the cache [only grows](crate::KvPolicy::only_grows) and what the next token would see
    /// is not there any more. Returns how many are left.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the disk has failed.
    pub fn truncate(&mut self, tokens: usize) -> Result<usize, ModelError> {
        self.kv.truncate(tokens)
    }

    /// Holds made-up tokens in a cache in pages, as if they had passed: what decoding costs behind a long context can be
    /// measured without passing one.
    ///
    /// # Errors
    /// [`ModelError::PromptTooLong`], and what writing their pages reports.
    pub fn make_up_context(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let context_tokens = self.context_tokens;
        if n_tokens > context_tokens {
            return Err(ModelError::PromptTooLong { prompt_tokens: n_tokens, context_tokens });
        }
        self.kv.make_up(n_tokens)
    }

    /// Set it, from any thread, to end a pass with [`ModelError::Interrupted`]: between two chunks of a layer, two experts, or two
    /// tiles of the head.
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        self.interrupt.flag()
    }

    /// How much of the budget the engine has, for any thread to change.
    pub fn allowance(&self) -> Allowance {
        self.residency.allowance()
    }

    /// The bytes of the budget that the engine can use: those of its plan, and of an embedding table if there is room for it.
    /// More would lie idle.
    pub fn useful_bytes(&self) -> u64 {
        self.residency.plan().total_bytes + self.decoder.embedding().planned_bytes(&self.residency)
    }

    /// What is in memory, and by which plan.
    pub fn residency(&self) -> &Residency {
        &self.residency
    }

    /// What was done so far.
    pub fn stats(&self) -> EngineStats {
        let reads = self.residency.reader().stats();
        let kv = self.kv.stats();
        let experts = self.expert_traffic();
        let expert_reads = experts.unwrap_or_default();
        EngineStats {
            model_bytes: self.model_bytes,
            budget_bytes: self.budget.total_bytes(),
            floor_bytes: self.floor_bytes,
            pinned_bytes: self.residency.pinned_bytes(),
            table_bytes: self.decoder.embedding().held_bytes(),
            streamed_bytes: self.residency.streamed_bytes() + expert_reads.read_bytes,
            pass_bytes: self.residency.pass_bytes() + expert_reads.token_read_bytes,
            stall: self.stall(),
            experts,
            kv_stall: kv.waited,
            kv_read_bytes: kv.read_bytes,
            kv_written_bytes: kv.written_bytes,
            kv_sealing: kv.sealing,
            retries: reads.retries,
            reading: reads.active,
            disk: ByteRate::measured(reads.bytes, reads.active),
            token_compute: self.token_compute.value(),
            estimates: self.residency.estimates(),
        }
    }
}
