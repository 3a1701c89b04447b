//! Loading a model into an engine: plans the residency, allocates memory, and starts reading.

use std::marker::PhantomData;
use std::sync::Arc;

use flash_io::{Budget, Pace, Reader, Shard, ShardIdx};
use flash_kv::{PageFile, PrefixStore, Scratch};
use flash_sched::Ema;

use super::{Engine, EngineOptions, SessionContext};
use crate::engine::identity::{self, ComputedBy, EngineIdentity, IdentityInputs};
use crate::engine::model::Model;
use crate::interrupt::Interrupt;
use crate::kv::{CacheSpec, KvCache, KvPlan, PageCounters, PageSource, TwinFile};
use crate::stream::conduct::ReadOptions;
use crate::stream::experts::Experts;
use crate::stream::pace::Pacer;
use crate::stream::planner::MachineSpeeds;
use crate::stream::residency::Residency;
use crate::{ModelError, memory};

impl Model {
    /// Loads the model: plans the residency, allocates memory and starts to read weights.
    ///
    /// # Errors
    /// [`ModelError::BelowFloor`] before any weight is read; [`ModelError::Io`] if threads or memory cannot be had;
    /// [`ModelError::Rotates`] if prefixes are shared and the cache discards old tokens; [`ModelError::HasState`] if
    /// prefixes are shared and layers have a recurrent state.
    pub fn load(self, options: &EngineOptions) -> Result<Engine, ModelError> {
        self.load_with(options, None)
    }

    pub(super) fn load_with(
        self,
        options: &EngineOptions,
        context: Option<SessionContext>,
    ) -> Result<Engine, ModelError> {
        let EngineOptions { budget_bytes, mut workload, reader, read_rate, events, kv_dir, share_prefixes } =
            options.clone();
        if share_prefixes && self.state_bytes() > 0 {
            return Err(ModelError::HasState { what: "a prefix that is shared" });
        }
        if share_prefixes && workload.kv.rotates() {
            return Err(ModelError::Rotates { what: "a prefix that is shared" });
        }
        workload.kv.is_paged |= share_prefixes || context.is_some();
        let (needs, kv_plan) = self.memory_planner().needs(&workload, budget_bytes);
        let floor_bytes = self.floor_bytes(&workload);
        let plan = self.plan(&workload, budget_bytes, &MachineSpeeds::default())?;
        memory::wire(budget_bytes);
        let budget = Budget::new(budget_bytes);
        let overhead = budget.reserve(needs.process_bytes + needs.activation_bytes)?;
        let geometry = self.geometry(&workload.kv);
        let known = match share_prefixes || context.is_some() {
            true => Some(self.identity(&kv_dir, &workload.kv)?),
            false => None,
        };
        if let (Some(context), Some(identity)) = (&context, &known) {
            context.check(identity, workload.planned_tokens())?;
        }
        let identity = known.unwrap_or_else(|| identity::temporary(geometry));

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
            let storage = self.checkpoint.open_growing(file.path())?;
            shards.push(Shard::new(file.path().to_owned(), storage));
        }
        let shard = ShardIdx(shards.len() - 1);
        let reader = Reader::new(shards, reader_config)?;
        let traffic = PageCounters::default();
        let conduct = ReadOptions { prefetch: workload.prefetch, pacer, events, pages: traffic.clone() };
        let mut residency = Residency::new(self.bundles, plan, reader, &budget, conduct)?;
        // The disk is the bottleneck, so reading starts before anything else is created.
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
        let layers = CacheSpec { layout: self.backend.cache_layout(), keeps: &self.keeps, budget: &budget };
        let mut kv = match &kv_plan {
            KvPlan::Paged(plan) => {
                let twins = if share_prefixes { TwinFile::new(&kv_dir, &identity)? } else { None };
                KvCache::paged(layers, plan, identity, source, twins, traffic)?
            }
            KvPlan::Plain { capacities, context_tokens, .. } => {
                KvCache::plain(layers, self.kv_shape, &self.windows, capacities, *context_tokens)?
            }
        };
        let prefixes = share_prefixes.then(|| PrefixStore::open(&kv_dir, &identity)).transpose()?;
        let session = match context {
            Some(context) => Some(context.restore_own(&mut kv)?),
            None => None,
        };
        let model_bytes = self.checkpoint.catalog().total_bytes();
        let computed_by = ComputedBy::new(&self.backend, self.top_k);
        let identity = match known {
            Some(identity) => EngineIdentity::Known(identity),
            None => EngineIdentity::Unknown(Box::new(IdentityInputs {
                checkpoint: self.checkpoint,
                computed_by,
                geometry,
                kv_dir: kv_dir.clone(),
            })),
        };
        if let Some(trained_tokens) = self.max_position_embeddings
            && workload.context_tokens > trained_tokens
        {
            let context_tokens = workload.context_tokens;
            tracing::warn!(
                "the context has {context_tokens} tokens, and the model was trained for {trained_tokens}: what comes behind those may \
                 make no sense"
            );
        }
        let rotates = workload.kv.rotates() || !kv.has_full_memory();
        // Memory is planned in whole pages; the excess is only usable up to the trained context length.
        let end =
            self.max_position_embeddings.map_or(usize::MAX, |trained| trained.max(workload.context_tokens));
        let end = end.min(self.positions_max.unwrap_or(usize::MAX));
        Ok(Engine {
            _thread: PhantomData,
            model_bytes,
            decoder: self.decoder,
            context_tokens: kv.context_tokens().min(end),
            residency,
            kv,
            experts,
            budget,
            floor_bytes,
            token_compute: Ema::default(),
            interrupt: Interrupt::default(),
            session,
            prefixes,
            identity,
            kv_dir,
            rotates,
            _scratch: scratch,
            _overhead: overhead,
        })
    }
}
