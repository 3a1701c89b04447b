//! Loading a model into an engine: plans the residency, allocates memory, and starts reading.

use std::marker::PhantomData;
use std::sync::Arc;

use flash_io::{Budget, Pace, Reader, Shard, ShardIdx};
use flash_kv::{PageFile, PrefixStore, Scratch};
use flash_sched::{Ema, PassCost};
use parking_lot::Mutex;

use super::{Context, Engine, EngineOptions, SessionContext};
use crate::engine::contexts::{Contexts, Regions, ScratchPages};
use crate::engine::identity::{self, ComputedBy, EngineIdentity, IdentityInputs};
use crate::engine::model::Model;
use crate::engine::pass::LoadedModel;
use crate::interrupt::Interrupt;
use crate::kv::{KvPlan, PageCounters, PageSource, TwinFile};
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
        let session_shard = match &context {
            Some(context) => Some(self.add_page_file(&mut shards, context.pages())?),
            None => None,
        };
        let needs_scratch = session_shard.is_none() || workload.n_contexts > 1;
        let scratch = match &kv_plan {
            KvPlan::Paged(plan) if needs_scratch && !plan.is_all_held() => {
                let scratch = Scratch::new(&kv_dir, &identity)?;
                let shard = self.add_page_file(&mut shards, scratch.pages())?;
                Some((scratch, shard))
            }
            _ => None,
        };
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
        // Memory is planned in whole pages; the excess is only usable up to the trained context length.
        let end =
            self.max_position_embeddings.map_or(usize::MAX, |trained| trained.max(workload.context_tokens));
        let model_bytes = self.checkpoint.catalog().total_bytes();
        let computed_by = ComputedBy::new(&self.backend, self.top_k);
        let session_identity = match known {
            Some(identity) => EngineIdentity::Known(identity),
            None => EngineIdentity::Unknown(Box::new(IdentityInputs {
                checkpoint: self.checkpoint,
                computed_by,
                geometry,
                kv_dir: kv_dir.clone(),
            })),
        };
        let twins = match share_prefixes {
            true => TwinFile::new(&kv_dir, &identity)?.map(Arc::new),
            false => None,
        };
        let contexts = Arc::new(Contexts {
            budget: budget.clone(),
            layout: self.backend.cache_layout(),
            keeps: self.keeps,
            kv_shape: self.kv_shape,
            windows: self.windows,
            rotates: workload.kv.rotates() || !kv_plan.has_full_memory(),
            plan: kv_plan,
            page_identity: identity,
            traffic,
            max_positions: end.min(self.positions_max.unwrap_or(usize::MAX)),
            prefixes: share_prefixes.then(|| PrefixStore::open(&kv_dir, &identity)).transpose()?,
            twins,
            scratch: scratch.map(|(file, shard)| ScratchPages {
                file,
                reader: residency.shared_reader(),
                shard,
            }),
            regions: Regions::default(),
            identity: Mutex::new(session_identity),
            kv_dir,
            spool: Mutex::default(),
        });
        let context = match (context, session_shard) {
            (Some(context), Some(shard)) => {
                let file = Arc::clone(context.pages());
                let reader = residency.shared_reader();
                let source = PageSource { file, reader, shard, first_place: 0, is_kept: true };
                Some(context.restore_own(Context::new(&contexts), source)?)
            }
            _ => None,
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
        Ok(Engine {
            _thread: PhantomData,
            model_bytes,
            model: LoadedModel {
                decoder: self.decoder,
                residency,
                experts,
                interrupt: Interrupt::default(),
                token_compute: Ema::default(),
                cost: PassCost::default(),
                contexts: Arc::clone(&contexts),
                max_tentative_rows: workload.tentative_rows,
                is_batch_invariant: self.backend.is_batch_invariant(),
            },
            contexts,
            context,
            budget,
            floor_bytes,
            n_contexts: workload.n_contexts,
            max_rows: workload.prompt_tokens.max(workload.n_contexts),
            _overhead: overhead,
        })
    }

    /// Adds a file of pages to the shards that are read.
    fn add_page_file(&self, shards: &mut Vec<Shard>, file: &PageFile) -> Result<ShardIdx, ModelError> {
        let storage = self.checkpoint.open_growing(file.path())?;
        shards.push(Shard::new(file.path().to_owned(), storage));
        Ok(ShardIdx(shards.len() - 1))
    }
}
