//! The memory and files that contexts are made of, as planned when the model was loaded.

mod regions;

use std::path::PathBuf;
use std::sync::Arc;

use flash_io::{Budget, Reader, ShardIdx};
use flash_kv::{Identity, KvShape, PrefixStore, Scratch, Spool};
use parking_lot::Mutex;

use crate::ModelError;
use crate::engine::identity::EngineIdentity;
use crate::kv::{
    CacheKind, CacheLayout, CacheSpec, KvCache, KvPlan, PageCounters, PageSource, TwinFile, TwinRegion,
};

pub(super) use regions::{Region, Regions};

/// The plan of contexts, and the memory and files that they are made of.
#[derive(Debug)]
pub(super) struct Contexts {
    pub budget: Budget,
    pub layout: CacheLayout,
    /// Keys and values, or the state, that each layer keeps.
    pub keeps: Vec<CacheKind>,
    pub kv_shape: KvShape,
    /// Sliding windows of the layers that have keys and values.
    pub windows: Vec<Option<usize>>,
    pub plan: KvPlan,
    /// Identity of pages.
    pub page_identity: Identity,
    pub traffic: PageCounters,
    /// Maximum tokens by the positions of the model.
    pub max_positions: usize,
    /// Pages that prompts share, if they do.
    pub prefixes: Option<PrefixStore>,
    /// The twins of those pages, if they have any.
    pub twins: Option<Arc<TwinFile>>,
    /// Present if not all pages fit in memory.
    pub scratch: Option<ScratchPages>,
    pub regions: Regions,
    /// Identity of sessions.
    pub identity: Mutex<EngineIdentity>,
    pub kv_dir: PathBuf,
    /// Whether contexts discard old tokens.
    pub rotates: bool,
    /// The file of parked contexts; none before the first is parked.
    pub spool: Mutex<Option<Arc<Spool>>>,
}

/// A page file that the pages of all contexts share, each in a region of its own.
#[derive(Debug)]
pub(super) struct ScratchPages {
    pub file: Scratch,
    pub reader: Arc<Reader>,
    /// Index of the file among those of `reader`.
    pub shard: ShardIdx,
}

impl Contexts {
    /// Returns the maximum tokens of a context.
    pub(super) fn max_tokens(&self) -> usize {
        self.plan.context_tokens().min(self.max_positions)
    }

    /// Allocates an empty cache, whose pages on disk are in `region` of the scratch files, or in the file of a session.
    ///
    /// # Errors
    /// [`ModelError::Kv`] or [`ModelError::Io`] if the budget has no room for another one.
    pub(super) fn make_cache(
        &self,
        region: &Region,
        session_pages: Option<&PageSource>,
    ) -> Result<KvCache, ModelError> {
        let layers = CacheSpec { layout: self.layout, keeps: &self.keeps, budget: &self.budget };
        let plan = match &self.plan {
            KvPlan::Paged(plan) => plan,
            KvPlan::Plain { capacities, context_tokens, .. } => {
                return KvCache::plain(layers, self.kv_shape, &self.windows, capacities, *context_tokens);
            }
        };
        let first_place = region.idx * plan.n_pages;
        let in_scratch = || {
            let ScratchPages { file, reader, shard } = self.scratch.as_ref()?;
            Some(PageSource {
                file: Arc::clone(file.pages()),
                reader: Arc::clone(reader),
                shard: *shard,
                first_place,
                is_kept: false,
            })
        };
        let source = session_pages.cloned().or_else(in_scratch);
        let twins = self.twins.as_ref().map(|file| TwinRegion { file: Arc::clone(file), first_place });
        KvCache::paged(layers, plan, self.page_identity, source, twins, self.traffic.clone())
    }

    /// Returns the file for what parked contexts had in memory, which is created at its first use.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if it cannot be created.
    pub(super) fn spool(&self) -> Result<Arc<Spool>, ModelError> {
        let spool = &mut *self.spool.lock();
        let spool = match spool {
            Some(spool) => spool,
            None => spool.insert(Spool::new(&self.kv_dir)?),
        };
        Ok(Arc::clone(spool))
    }
}
