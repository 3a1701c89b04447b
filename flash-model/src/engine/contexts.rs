//! Making contexts: their caches, as planned when the model was loaded.

use std::path::PathBuf;
use std::sync::Arc;

use flash_io::{Budget, Reader, ShardIdx};
use flash_kv::{Identity, KvShape, Scratch};
use parking_lot::Mutex;

use super::Context;
use crate::ModelError;
use crate::kv::{CacheKind, CacheLayout, CacheSpec, KvCache, KvPlan, PageCounters, PageSource, TwinFile};

/// The plan of contexts, and the memory and files that they are made of.
#[derive(Debug)]
pub(super) struct Contexts {
    /// Identifies the engine.
    pub owner: Arc<()>,
    pub budget: Budget,
    pub layout: CacheLayout,
    /// Keys and values, or the state, that each layer keeps.
    pub keeps: Vec<CacheKind>,
    pub kv_shape: KvShape,
    /// Sliding windows of the layers that have keys and values.
    pub windows: Vec<Option<usize>>,
    pub plan: KvPlan,
    /// Identity of pages.
    pub identity: Identity,
    pub traffic: PageCounters,
    /// Maximum tokens by the positions of the model.
    pub max_positions: usize,
    /// Where pages are shared as prefixes, if they are.
    pub prefix_dir: Option<PathBuf>,
    /// Present if not all pages fit in memory.
    pub scratch: Option<ScratchPages>,
}

/// A page file that the pages of all contexts share, each in a region of its own.
#[derive(Debug)]
pub(super) struct ScratchPages {
    file: Scratch,
    reader: Arc<Reader>,
    shard: ShardIdx,
    regions: Arc<Mutex<Regions>>,
}

/// Regions of a page file.
#[derive(Debug, Default)]
struct Regions {
    /// Regions that were given back.
    free: Vec<usize>,
    /// Regions in use or free.
    n_regions: usize,
}

/// A region of a page file, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Region {
    idx: usize,
    regions: Arc<Mutex<Regions>>,
}

impl Region {
    fn take(regions: &Arc<Mutex<Regions>>) -> Self {
        let Regions { free, n_regions } = &mut *regions.lock();
        let idx = free.pop().unwrap_or_else(|| {
            *n_regions += 1;
            *n_regions - 1
        });
        Self { idx, regions: Arc::clone(regions) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.regions.lock().free.push(self.idx);
    }
}

impl ScratchPages {
    /// `shard` is the index of the file among those of `reader`.
    pub(super) fn new(file: Scratch, reader: Arc<Reader>, shard: ShardIdx) -> Self {
        Self { file, reader, shard, regions: Arc::default() }
    }
}

impl Contexts {
    /// Returns the maximum tokens of a context.
    pub(super) fn max_tokens(&self) -> usize {
        self.plan.context_tokens().min(self.max_positions)
    }

    /// Makes an empty context.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the budget has no room for another one.
    pub(super) fn make(&self) -> Result<Context, ModelError> {
        let (KvPlan::Paged(plan), Some(scratch)) = (&self.plan, &self.scratch) else {
            return self.make_with(None, None);
        };
        let region = Region::take(&scratch.regions);
        let source = PageSource {
            file: Arc::clone(scratch.file.pages()),
            reader: Arc::clone(&scratch.reader),
            shard: scratch.shard,
            first_place: region.idx * plan.n_pages,
            is_kept: false,
        };
        self.make_with(Some(source), Some(region))
    }

    /// Makes an empty context whose pages are in the file of a session.
    ///
    /// # Errors
    /// See [`make`](Self::make).
    pub(super) fn make_kept(&self, source: PageSource) -> Result<Context, ModelError> {
        self.make_with(Some(source), None)
    }

    fn make_with(&self, source: Option<PageSource>, region: Option<Region>) -> Result<Context, ModelError> {
        let layers = CacheSpec { layout: self.layout, keeps: &self.keeps, budget: &self.budget };
        let kv = match &self.plan {
            KvPlan::Paged(plan) => {
                let twins = match &self.prefix_dir {
                    Some(dir) => TwinFile::new(dir, &self.identity)?,
                    None => None,
                };
                KvCache::paged(layers, plan, self.identity, source, twins, self.traffic.clone())?
            }
            KvPlan::Plain { capacities, context_tokens, .. } => {
                KvCache::plain(layers, self.kv_shape, &self.windows, capacities, *context_tokens)?
            }
        };
        let (owner, max_tokens) = (Arc::clone(&self.owner), self.max_tokens());
        Ok(Context { kv, owner, max_tokens, session: None, _region: region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_used_again() {
        let regions = Arc::default();
        let [a, b] = [(); 2].map(|()| Region::take(&regions));
        assert_eq!([a.idx, b.idx], [0, 1]);
        drop(a);
        let [c, d] = [(); 2].map(|()| Region::take(&regions));
        assert_eq!([c.idx, d.idx], [0, 2]);
    }
}
