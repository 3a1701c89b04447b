//! A model ready to run under a budget.

mod prefixes;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use flash_io::{Budget, Pace, Reader, ReaderConfig, Reservation, Shard, ShardIdx};
use flash_kv::{Digest, Identity, KvDtype, KvShape, PageFile, PrefixStore, Scratch, Session};
use flash_sched::{ByteRate, Ema, Estimates, Limit, Prediction, ResidencyPlan};

use crate::allowance::Allowance;
use crate::bundle::{BundleInfo, Bundles};
use crate::compute::{Backend, Compute};
use crate::conduct::Conduct;
use crate::decoder::{Decoder, Pass};
use crate::experts::{ExpertInfo, ExpertPlan, ExpertTraffic, Experts};
use crate::kv::{KvCache, KvPlan, KvPolicy, PageSource, PageTraffic, Twins};
use crate::needs::{MemoryNeeds, Planned, Workload};
use crate::pace::Pacer;
use crate::planner::MachineSpeeds;
use crate::record::Event;
use crate::residency::Residency;
use crate::weights::Weights;
use crate::{Checkpoint, ModelError, models};

pub use session::{Recovery, Resumption, SessionContext};

/// A model whose layers are made and checked against its checkpoint, without a weight in memory.
#[derive(Debug)]
pub struct Model {
    checkpoint: Checkpoint,
    backend: Backend,
    decoder: Decoder,
    bundles: Bundles,
    kv_shape: KvShape,
    n_layers: usize,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    /// How many experts a token takes, if not as many as the model was trained with.
    top_k: Option<usize>,
}

/// How a model is to be run.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Hard cap on the memory of the whole process.
    pub budget_bytes: u64,
    /// What the run will ask of memory.
    pub workload: Workload,
    /// How bundles are read.
    pub reader: ReaderConfig,
    /// A cap on the rate of reads, if the disk is to be shared.
    pub read_rate: Option<ByteRate>,
    /// Who is told what happens when, if anyone is.
    pub events: Option<Sender<Event>>,
    /// Where pages of keys and values go that memory has no room for, and what outlives the run.
    pub kv_dir: PathBuf,
    /// Whether prompts share the pages of their common prefixes, with each other and with those of other runs.
    pub share_prefixes: bool,
}

impl EngineOptions {
    /// A workload in a budget, with pages in the folder for temporary files.
    pub fn new(budget_bytes: u64, workload: Workload) -> Self {
        let (reader, kv_dir) = (ReaderConfig::default(), std::env::temp_dir().join("flash-kv"));
        Self { budget_bytes, workload, reader, read_rate: None, events: None, kv_dir, share_prefixes: false }
    }
}

impl Model {
    /// Makes the layers that the checkpoint's configuration asks for.
    ///
    /// # Errors
    /// [`ModelError`], for an architecture that is not known, or tensors that do not fit the configuration.
    pub fn open(checkpoint: Checkpoint) -> Result<Self, ModelError> {
        Self::open_on(checkpoint, Compute::Auto)
    }

    /// The same, with a choice of who computes.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ModelError::NativeCompute`].
    pub fn open_on(checkpoint: Checkpoint, compute: Compute) -> Result<Self, ModelError> {
        let backend = Backend::new(compute)?;
        let weights = Weights::new(&checkpoint, &backend);
        let architecture = models::build(&weights)?;
        let kv_shape = KvShape {
            kv_heads: architecture.kv_heads as usize,
            head_dim: architecture.head_dim as usize,
            dtype: KvDtype::F32,
        };
        let n_layers = architecture.layers.len();
        let vocab_size = architecture.vocab_size as usize;
        let max_position_embeddings = architecture.max_position_embeddings;
        let (decoder, bundles) = Decoder::new(&weights, architecture)?;
        Ok(Self {
            checkpoint,
            backend,
            decoder,
            bundles,
            kv_shape,
            n_layers,
            vocab_size,
            max_position_embeddings,
            top_k: None,
        })
    }

    /// Has each token take `top_k` experts of a layer instead of as many as the model was trained with, which it returns:
    /// less is read and computed, and what the model says is not the same.
    ///
    /// # Errors
    /// [`ModelError::NoExperts`], and [`ModelError::TopK`] for a number that there is not.
    pub fn override_top_k(&mut self, top_k: usize) -> Result<usize, ModelError> {
        let trained = self.decoder.override_top_k(top_k)?;
        self.top_k = Some(top_k);
        Ok(trained)
    }

    /// Where the weights come from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The longest context that the model was trained for, if it says.
    pub fn max_context_tokens(&self) -> Option<usize> {
        self.max_position_embeddings
    }

    /// Bytes of all weights.
    pub fn model_bytes(&self) -> u64 {
        self.checkpoint.catalog().total_bytes()
    }

    /// Bytes that a token leaves in the KV cache.
    pub fn kv_token_bytes(&self) -> u64 {
        (self.n_layers * self.kv_shape.token_bytes()) as u64
    }

    /// The bundles in execution order.
    pub fn bundles(&self) -> impl Iterator<Item = BundleInfo> {
        self.bundles.info()
    }

    /// What a workload takes beside the weights, in a budget: keys and values take what suits it.
    pub fn needs(&self, workload: &Workload, budget_bytes: u64) -> MemoryNeeds {
        self.planned().needs(workload, budget_bytes).0
    }

    fn planned(&self) -> Planned<'_> {
        let Self { backend, decoder, bundles, kv_shape, n_layers, vocab_size, .. } = self;
        Planned {
            backend,
            decoder,
            bundles,
            kv_shape: *kv_shape,
            n_layers: *n_layers,
            vocab_size: *vocab_size,
        }
    }

    /// Which bundles a budget pins, and the slots of the others. [`load`](Self::load) keeps to the plan for the usual speeds.
    ///
    /// # Errors
    /// [`ModelError::BelowFloor`].
    pub fn plan(
        &self,
        workload: &Workload,
        budget_bytes: u64,
        speeds: &MachineSpeeds,
    ) -> Result<ResidencyPlan, ModelError> {
        let (needs, _) = self.planned().needs(workload, budget_bytes);
        let plan = self.bundles.plan(needs.fixed_bytes(), budget_bytes, workload.prefetch, speeds);
        plan.map_err(|_| self.planned().below_floor(workload, budget_bytes))
    }

    /// How long a token is predicted to take in a budget; experts, if there are any, are taken to be used alike.
    ///
    /// # Errors
    /// [`ModelError::BelowFloor`].
    pub fn predict(
        &self,
        workload: &Workload,
        budget_bytes: u64,
        speeds: &MachineSpeeds,
    ) -> Result<Prediction, ModelError> {
        let plan = self.plan(workload, budget_bytes, speeds)?;
        let mut prediction = self.bundles.predict(&plan, speeds);
        if let Some(experts) = self.decoder.expert_plan() {
            let expert_bytes = self.needs(workload, budget_bytes).expert_bytes;
            experts.add_to(&mut prediction, expert_bytes, speeds);
        }
        Ok(prediction)
    }

    /// Experts of all layers, how many of them a budget holds, and what a token takes of all; none if there are none.
    pub fn experts(&self, workload: &Workload, budget_bytes: u64) -> Option<ExpertInfo> {
        let plan = self.decoder.expert_plan()?;
        let n_held = plan.n_held(self.needs(workload, budget_bytes).expert_bytes);
        let ExpertPlan { n_experts, total_bytes, token_bytes, .. } = plan;
        Some(ExpertInfo { n_experts, n_held, total_bytes, token_bytes })
    }

    /// The smallest budget for a workload.
    pub fn floor_bytes(&self, workload: &Workload) -> u64 {
        self.planned().floor_bytes(workload)
    }

    /// What pages of this model are told from others by.
    fn identity(&self, policy: &KvPolicy) -> Result<Identity, ModelError> {
        let computed_by = match self.top_k {
            None => self.backend.name().to_owned(),
            Some(top_k) => format!("{} with {top_k} experts", self.backend.name()),
        };
        let model = Digest(self.checkpoint.digest(&computed_by)?);
        Ok(Identity { model, geometry: policy.geometry(self.kv_shape, self.n_layers) })
    }

    /// Plans the residency, takes the memory and begins to read.
    ///
    /// # Errors
    /// [`ModelError::BelowFloor`] before any weight is read; [`ModelError::Io`] if there are no threads or no memory;
    /// [`ModelError::Rotates`] if prefixes are to be shared and tokens to be given up.
    pub fn load(self, options: &EngineOptions) -> Result<Engine, ModelError> {
        self.load_with(options, None)
    }

    fn load_with(
        self,
        options: &EngineOptions,
        context: Option<SessionContext>,
    ) -> Result<Engine, ModelError> {
        let EngineOptions { budget_bytes, mut workload, reader, read_rate, events, kv_dir, share_prefixes } =
            options.clone();
        if share_prefixes && workload.kv.rotates() {
            return Err(ModelError::Rotates { what: "a prefix that is shared" });
        }
        workload.kv.in_pages |= share_prefixes || context.is_some();
        let (needs, kv_plan) = self.planned().needs(&workload, budget_bytes);
        let floor_bytes = self.floor_bytes(&workload);
        let plan = self.plan(&workload, budget_bytes, &MachineSpeeds::default())?;
        let budget = Budget::new(budget_bytes);
        let overhead = budget.reserve(needs.process_bytes + needs.activation_bytes)?;
        let identity = self.identity(&workload.kv)?;
        if let Some(context) = &context {
            context.check(&identity, workload.planned_tokens())?;
        }

        let pacer = Pacer::new(read_rate);
        let mut reader_config = reader;
        reader_config.pacer = Some(Arc::new(pacer.clone()) as Arc<dyn Pace>);
        let mut shards = self.checkpoint.catalog().shards().to_vec();
        let is_kept = context.is_some();
        let scratch = match &kv_plan {
            KvPlan::Paged(plan) if !is_kept && !plan.is_all_held() => Some(Scratch::new(&kv_dir, &identity)?),
            _ => None,
        };
        let file: Option<Arc<PageFile>> = match &context {
            Some(context) => Some(Arc::clone(context.pages())),
            None => scratch.as_ref().map(|scratch| Arc::clone(scratch.pages())),
        };
        if let Some(file) = &file {
            let storage = self.checkpoint.open_beside(file.path())?;
            shards.push(Shard { path: file.path().to_owned(), storage });
        }
        let shard = ShardIdx(shards.len() - 1);
        let reader = Reader::new(shards, reader_config)?;
        let traffic = PageTraffic::default();
        let conduct = Conduct { prefetch: workload.prefetch, pacer, events, pages: traffic.clone() };
        let mut residency = Residency::new(self.bundles, plan, reader, &budget, conduct)?;
        // The disk is the slowest: it begins before anything else is made.
        residency.start()?;
        let experts = match self.decoder.expert_plan() {
            Some(plan) => {
                let (reader, mixtures) = (residency.shared_reader(), self.decoder.mixtures());
                Some(Experts::new(&self.backend, reader, mixtures, &plan, needs.expert_bytes, &budget)?)
            }
            None => None,
        };
        let shared = |file| PageSource { file, reader: residency.shared_reader(), shard, is_kept };
        let source = file.map(shared);
        let mut kv = match &kv_plan {
            KvPlan::Paged(plan) => {
                let twins = if share_prefixes { Twins::new(&kv_dir, &identity)? } else { None };
                KvCache::paged(plan, identity, source, twins, traffic, &budget)?
            }
            KvPlan::Plain { context_tokens, .. } => {
                KvCache::plain(&self.backend, self.kv_shape, self.n_layers, *context_tokens, &budget)?
            }
        };
        let prefixes = share_prefixes.then(|| PrefixStore::open(&kv_dir, &identity)).transpose()?;
        let session = match context {
            Some(context) => Some(context.restore_own(&mut kv)?),
            None => None,
        };
        let max_tokens = self.max_position_embeddings.unwrap_or(usize::MAX);
        Ok(Engine {
            model_bytes: self.checkpoint.catalog().total_bytes(),
            decoder: self.decoder,
            context_tokens: kv.context_tokens().min(max_tokens),
            residency,
            kv,
            experts,
            budget,
            floor_bytes,
            token_compute: Ema::default(),
            interrupt: Arc::new(AtomicBool::new(false)),
            session,
            prefixes,
            identity,
            kv_dir,
            rotates: workload.kv.rotates(),
            _scratch: scratch,
            _overhead: overhead,
        })
    }
}

/// A running model: tokens in, logits out, with the KV cache of what came before.
#[derive(Debug)]
pub struct Engine {
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
    interrupt: Arc<AtomicBool>,
    /// What the context is saved in.
    session: Option<Session>,
    prefixes: Option<PrefixStore>,
    /// What its pages are told from others by.
    identity: Identity,
    kv_dir: PathBuf,
    /// Whether tokens are given up.
    rotates: bool,
    /// The pages on disk: gone with the engine.
    _scratch: Option<Scratch>,
    /// What of the budget no allocation of ours shows.
    _overhead: Reservation,
}

/// What an engine has done so far.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Bytes of all weights.
    pub model_bytes: u64,
    /// The cap on memory.
    pub budget_bytes: u64,
    /// The smallest cap that would have worked.
    pub floor_bytes: u64,
    /// Weights that stay in memory.
    pub pinned_bytes: u64,
    /// Weights that were read beside those that are pinned, so far.
    pub streamed_bytes: u64,
    /// Weights that one pass over the model streams; of experts, what a token has read on average.
    pub pass_bytes: u64,
    /// Time that computing waited for weights.
    pub stall: Duration,
    /// Time that attention waited for pages of keys and values.
    pub kv_stall: Duration,
    /// What was done with experts, if there are any.
    pub experts: Option<ExpertTraffic>,
    /// Bytes of pages that were read from the disk.
    pub kv_read_bytes: u64,
    /// Bytes of pages that were written to it.
    pub kv_written_bytes: u64,
    /// Reads that were repeated after an error.
    pub retries: u64,
    /// Time that sealing pages took of computing.
    pub kv_sealing: Duration,
    /// Time during which the disk was read from.
    pub reading: Duration,
    /// What the disk gave while it was read from.
    pub disk: Option<ByteRate>,
    /// The usual compute of a single token.
    pub token_compute: Option<Duration>,
    /// What the controller of reads has learned; none if nothing is read ahead.
    pub estimates: Option<Estimates>,
}

impl EngineStats {
    /// What a token costs at least.
    pub fn limit(&self) -> Limit {
        let compute = self.token_compute.unwrap_or_default();
        Limit { compute, streamed_bytes: self.pass_bytes, disk: self.disk }
    }
}

impl Engine {
    /// Passes tokens through the model, behind those that the cache holds, and returns the logits of the last one.
    ///
    /// # Errors
    /// [`ModelError`]; the cache then holds what it held before.
    pub fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        if ids.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        let begin = Instant::now();
        let stall = self.stall();
        let logits = self.pass(ids, |decoder, pass| decoder.logits(pass, ids))?;
        if ids.len() == 1 {
            self.token_compute.observe(begin.elapsed().saturating_sub(self.stall() - stall));
        }
        Ok(logits)
    }

    /// The cross-entropy, in nats, of each token but the first, given those before it; the cache is emptied.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn losses(&mut self, ids: &[u32]) -> Result<Vec<f64>, ModelError> {
        self.truncate(0)?;
        let losses = self.pass(ids, |decoder, pass| decoder.losses(pass, ids));
        self.truncate(0)?;
        losses
    }

    /// How long computing has waited for weights.
    fn stall(&self) -> Duration {
        let experts = self.experts.as_ref().map(Experts::traffic).unwrap_or_default();
        self.residency.stall() + experts.stall
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
        let outcome = run(decoder, &mut Pass { residency, kv, experts, interrupt });
        if outcome.is_err() {
            // What was begun may still be writing to the cache; how it ends does not matter any more.
            drop(residency.settle());
        }
        residency.end_pass(outcome.is_ok());
        if let Some(experts) = experts {
            experts.end_pass(ids.len());
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

    /// Tokens that the cache can hold: what the budget was planned for, or what the model was trained for.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Forgets all but the first `tokens` tokens; or all, if so much of a cache in pages has left its window that what comes
    /// next would not have the same bits. Returns how many are left.
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

    /// Set it, from any thread, to end a pass between two layers with [`ModelError::Interrupted`].
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }

    /// How much of the budget the engine has, for any thread to change.
    pub fn allowance(&self) -> Allowance {
        self.residency.allowance()
    }

    /// What is in memory, and by which plan.
    pub fn residency(&self) -> &Residency {
        &self.residency
    }

    /// What was done so far.
    pub fn stats(&self) -> EngineStats {
        let reads = self.residency.reader().stats();
        let kv = self.kv.stats();
        let experts = self.experts.as_ref().map(Experts::traffic).unwrap_or_default();
        EngineStats {
            model_bytes: self.model_bytes,
            budget_bytes: self.budget.total_bytes(),
            floor_bytes: self.floor_bytes,
            pinned_bytes: self.residency.pinned_bytes(),
            streamed_bytes: self.residency.streamed_bytes() + experts.read_bytes,
            pass_bytes: self.residency.pass_bytes() + experts.token_read_bytes,
            stall: self.stall(),
            experts: self.experts.as_ref().map(Experts::traffic),
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
